"""Settings of glibc's memory allocator. Other C libraries stay as they are."""

import ctypes
import os

# Of glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_HEAP = 64 << 20  # bytes of the largest heap of a thread


def use_one_arena() -> bool:
    """Makes glibc allocate from one arena, for commands that run for hours. Call it before other threads allocate.

    By default every thread gets an arena, and each arena keeps a freed block of up to 64 MB. XLA's threads take turns, so
    resident memory grows for an hour in steps of one batch's buffers, until every arena holds one
    (`python -m benchmarks.soak infer` measures it).

    Returns:
      Whether it was set. It is not where the user's environment sets arenas, or where the C library is not glibc.
    """
    if any(name in os.environ for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")):
        return False
    return _set({_M_ARENA_MAX: 1})


def keep_freed() -> bool:
    """Makes glibc keep freed memory, for a training on CPUs.

    There XLA requests the memory of a step's intermediate arrays from the C library, and frees it after the step. glibc
    maps every request of more than 32 MiB anew and unmaps it when it is freed, so the kernel zeroes all of its pages in
    every step. The process then holds, to its end, the most memory that it needed at any time.

    Returns:
      Whether it was set. It is not where the user's environment sets ``MALLOC_*`` or ``GLIBC_TUNABLES``, or where the C
      library is not glibc.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    # No request is mapped apart from the heaps, their ends are not returned to the kernel, and the heap of a thread stays
    # when nothing in it is in use.
    return _set({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: _HEAP})


def _set(options: dict[int, int]) -> bool:
    try:
        return all(ctypes.CDLL(None).mallopt(*option) for option in options.items())
    except (OSError, AttributeError):  # another C library
        return False
