"""Distilling Step-by-Step in JAX: small T5 students from the answers and reasoning of a large teacher."""
