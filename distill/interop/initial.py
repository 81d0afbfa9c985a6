"""INITIAL_CHECKPOINT_PATH: parameters to start from, whatever format they are in."""
