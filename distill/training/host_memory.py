"""Keeps freed memory in the process while a CPU trains.

On a CPU, XLA requests the memory of a step's intermediate arrays from the C library, and frees it after the step. glibc
maps every request of more than 32 MiB anew and unmaps it when it is freed, so the kernel zeroes all pages in every step.
"""

import ctypes
import os
import sys

from jax.sharding import Mesh

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_HEAP = 64 << 20  # bytes of the largest heap of a thread


def keep_freed(mesh: Mesh) -> bool:
    """Has glibc keep freed memory for this process, if the mesh is of CPUs and the environment sets no ``MALLOC_*``.

    It lasts as long as the process, which then holds the most memory that it needed at any time.

    Args:
      mesh: the devices of the training.

    Returns:
      Whether it is kept. It is not with another C library than glibc.
    """
    set_by_user = any(name.startswith("MALLOC_") for name in os.environ)
    if mesh.devices.flat[0].platform != "cpu" or set_by_user or sys.platform != "linux":
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # No request is mapped apart from the heaps, their ends are not returned to the kernel, and a thread's heap stays when
    # nothing in it is in use.
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _HEAP))
    return all(set_option(*option) for option in options)
