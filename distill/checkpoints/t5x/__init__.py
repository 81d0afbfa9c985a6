"""Checkpoints of T5X: the msgpack index, its Zarr arrays, and Orbax folders."""
