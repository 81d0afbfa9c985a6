"""Memory that is freed is used again, by all threads or by the next step, and the user's own settings have priority."""

import os
import subprocess
import sys

import pytest

from distill import allocator

# 30 threads, one after the other, allocate and free 20 MB in blocks below glibc's limit for separate mappings.
_THREADS = """
import ctypes, re, sys, threading
from distill import allocator
if sys.argv[1] == "one":
    assert allocator.use_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
barrier = threading.Barrier(8)
def work():
    barrier.wait()
    for _ in range(3):
        blocks = [libc.malloc(100_000) for _ in range(200)]
        for block in blocks:
            ctypes.memset(block, 1, 100_000)
        pinned = libc.malloc(64)
        for block in blocks:
            libc.free(block)
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
heaps = sum(1 for line in open("/proc/self/maps") if re.match(r"[0-9a-f]+0{5,6}-", line) and " rw-p " in line)
print(heaps)
"""


def run(how, **environment):
    done = subprocess.run([sys.executable, "-c", _THREADS, how], env={**os.environ, **environment}, check=False,
                          capture_output=True, text=True)  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's arenas")
def test_threads_share_one_arena():
    code, out, err = run("many")
    assert code == 0, err
    many = int(out)
    code, out, err = run("one")
    assert code == 0, err
    assert int(out) <= many - 3, f"{out} heaps with one arena, {many} with one per thread"


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_users_setting_has_priority(monkeypatch, name):
    monkeypatch.setenv(name, "4")
    assert not allocator.use_one_arena()


# A step's intermediate arrays: requested, written and freed again, above glibc's limit for separate mappings.
_STEPS = """
import ctypes, resource
from distill import allocator
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        memory = libc.malloc(50_000_000)
        ctypes.memset(memory, 1, 50_000_000)
        libc.free(memory)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
assert allocator.keep_freed()
print(before, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mappings")
def test_freed_memory_is_zeroed_once():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", _STEPS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after < before / 5


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_freed_memory_is_kept_only_without_settings_of_the_user(monkeypatch, name):
    for given in [given for given in os.environ if given.startswith("MALLOC_")]:
        monkeypatch.delenv(given)
    monkeypatch.setenv(name, "4")
    assert not allocator.keep_freed()
