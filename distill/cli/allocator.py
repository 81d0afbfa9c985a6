"""The C library's memory allocator, for commands that run for hours."""

import ctypes
import os

_M_ARENA_MAX = -8  # of glibc's <malloc.h>
_SET_BY_USER = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def use_one_arena() -> bool:
    """Makes glibc allocate from one arena. Call it before other threads allocate.

    By default every thread gets an arena, and each arena keeps a freed block of up to 64 MB. XLA's threads take turns, so
    resident memory grows for an hour in steps of one batch's buffers, until every arena holds one
    (`python -m benchmarks.soak infer` measures it).

    Returns:
      Whether it was set. It is not where the user's environment sets arenas, or where the C library is not glibc.
    """
    if any(name in os.environ for name in _SET_BY_USER):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1))
    except (OSError, AttributeError):  # another C library
        return False
