"""Runs that are damaged, killed and starved on purpose, to count what is lost without a word."""
