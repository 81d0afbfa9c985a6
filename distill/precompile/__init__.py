"""Ahead-of-time compilation for TPUs on a machine without one, and what the compiled program says of a run."""
