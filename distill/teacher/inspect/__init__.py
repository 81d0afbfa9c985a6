"""What is in a record set, as one HTML file to look at. Needs neither JAX nor TensorFlow."""

from distill.teacher.inspect.report import InspectConfig, InspectReport, inspect

__all__ = ["InspectConfig", "InspectReport", "inspect"]
