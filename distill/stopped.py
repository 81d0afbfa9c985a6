"""The exception for a run that a signal ended. Imports nothing, so that every command can catch it."""


class Stopped(Exception):
    """A signal ended a run; its text is the signal's name."""
