"""Runs that are damaged, killed and starved on purpose, to count silent losses."""
