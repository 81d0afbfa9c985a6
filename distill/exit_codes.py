"""The exit codes of ``distill`` and of its launcher (docs/training.md lists them); imports nothing."""

DONE = 0
BUG = 1
"""An unexpected error; Python prints its traceback."""
MISTAKE = 2
"""A mistake in the command, the configuration or the data, which the user can correct."""
NO_ROOM = 3
"""``distill precompile``: a step does not fit into the device's memory."""
SOME_FAILED = 4
"""``distill sweep`` and ``demo``: at least one run failed; the others were trained."""
MACHINE = 74
"""EX_IOERR: an error of the machine, not of the command: a full disk, no permission, no network, no memory."""
STOPPED = 75
"""EX_TEMPFAIL: stopped early, by a signal or because the process was stuck; the same command continues or starts over."""
INTERRUPTED = 130
"""128 + SIGINT: a second Ctrl-C ended the command at once; progress since the last save is lost, except that of workers."""

CONTINUE = "run the same command again to continue"
"""What a user does after :data:`STOPPED` of a command that keeps its progress; every message uses these words."""
NOTHING_SAVED = "nothing was saved yet: run the same command again to start over"
"""The same for a training that was stopped before its first checkpoint."""
START_OVER = "run the same command again to start over"
"""The same for a command that keeps no progress."""

APART_S = 0.5
"""Two SIGINT within this time are one Ctrl-C, which a terminal and a launcher both pass on."""


class Stopped(Exception):
    """A signal ended a run, all progress saved; the text is the signal's name."""
