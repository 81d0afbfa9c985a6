"""Distilling Step-by-Step in JAX: small T5 students from the answers and reasoning of a large teacher."""

__version__ = "0.1.0"
