"""Ahead-of-time compilation for TPUs on a machine without one, and analysis of the compiled programs."""
