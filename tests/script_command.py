"""Runs a Python script in place of ``distill``: its path and arguments are those of the command line."""

import os
import runpy
import sys

import jax


def main() -> None:
    """Runs it with the environment's choice of optimizations, which a fork's JAX read when it was imported."""
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
