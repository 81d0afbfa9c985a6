"""The exit codes of ``distill`` and of its launcher (docs/training.md lists them); imports nothing."""

DONE = 0
BUG = 1
"""An error that the program does not foresee; Python prints its traceback."""
MISTAKE = 2
"""Something in the command, the configuration or the data that its user can put right."""
NO_ROOM = 3
"""``distill precompile``: a step does not fit into the device's memory."""
SOME_FAILED = 4
"""``distill sweep`` and ``demo``: at least one run failed; the others were trained."""
MACHINE = 74
"""EX_IOERR: the machine's fault, not the command's: a full disk, no permission, no network, no memory."""
STOPPED = 75
"""EX_TEMPFAIL: stopped before its end, everything kept; the same command goes on."""


class Stopped(Exception):
    """A signal ended a run, everything kept; the text is the signal's name."""
