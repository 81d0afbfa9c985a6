"""The HTML report on a record set. Imports neither JAX nor TensorFlow."""

from distill.teacher.inspect.report import InspectConfig, InspectReport, inspect

__all__ = ["InspectConfig", "InspectReport", "inspect"]
