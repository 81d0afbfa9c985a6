"""Exit codes, and the exception of a run that a signal stopped. Imports nothing, so that every command can."""

STOPPED = 75  # EX_TEMPFAIL: stopped by a signal, checkpoint saved; run the same command again to go on


class Stopped(Exception):
    """A signal ended a run; the text is the signal's name."""
