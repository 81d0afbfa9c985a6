"""Freed memory stays in a process that trains on CPUs, unless the user decides otherwise."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from distill.training import host_memory

PROGRAM = """
import ctypes, resource, types
import numpy as np
from distill.training import host_memory
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        memory = ctypes.c_void_p(library.malloc(ctypes.c_size_t(64 << 20)))
        ctypes.memset(memory, 1, 64 << 20)
        library.free(memory)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
kept = host_memory.keep_freed(types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform="cpu")])))
print(kept, before, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is of Linux")
def test_pages_are_zeroed_once():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    kept, before, after = done.stdout.split()
    if kept == "False":
        pytest.skip("this C library is not glibc")
    assert int(after) < int(before) / 5


def mesh(platform):
    return types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform=platform)]))


def test_the_environment_and_the_device_come_first(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert not host_memory.keep_freed(mesh("cpu"))
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    assert not host_memory.keep_freed(mesh("tpu"))
