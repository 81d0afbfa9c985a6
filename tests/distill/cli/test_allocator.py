"""One arena: memory that many threads free is used again, and the user's own setting has priority."""

import subprocess
import sys

import pytest

# 30 threads, one after the other, allocate and free 20 MB in blocks below glibc's limit for separate mappings.
_THREADS = """
import ctypes, re, sys, threading
from distill.cli import allocator
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
    import os

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
    from distill.cli import allocator

    monkeypatch.setenv(name, "4")
    assert not allocator.use_one_arena()
