"""Compiled programs that a process has read or written once are kept in it, beside JAX's files of them.

Reading a program from JAX's compilation cache links its object code anew, which takes an eighth of the time of a short
training. A training of a tiny student requests the programs of the one before.

The code of every program takes several memory mappings, and Linux ends a process that requests more than
``vm.max_map_count``: LLVM does not check. A session compiles enough for that, so programs are dropped in between.
"""

import collections
import gc
import inspect
import pathlib
from typing import Any

import jax
from jax._src import compilation_cache, compiler, distributed

KEPT = 400  # programs, those requested last
SHARE = 0.3  # of the mappings that Linux allows; one test file adds up to a tenth
READ = ("cache_key", "compile_options", "backend")
WRITE = ("cache_key", "module_name", "executable", "backend", "compile_time")
CHECK = ("cache_key", "compile_time_secs", "module_name", "backend", "executable", "host_callbacks")

kept: collections.OrderedDict[tuple[str, Any], tuple[Any, int]] = collections.OrderedDict()


def mappings() -> tuple[int, int] | None:
    """Counts this process's memory mappings.

    Returns:
      How many there are and how many Linux allows; None on systems that do not state them.
    """
    try:
        with open("/proc/self/maps", "rb") as file:
            present = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        return present, int(pathlib.Path("/proc/sys/vm/max_map_count").read_text())
    except OSError:
        return None


def drop_many() -> bool:
    """Drops all compiled programs if they take more than ``SHARE`` of the mappings; JAX's files of them stay.

    Returns:
      Whether they were dropped.
    """
    counted = mappings()
    if counted is None or counted[0] < SHARE * counted[1]:
        return False
    kept.clear()
    jax.clear_caches()
    gc.collect()
    return True


def keep() -> bool:
    """Has this process keep its programs, from the two functions of JAX that read and write the cache.

    Returns:
      Whether they are kept. They are not where JAX's version has other functions.
    """
    read = getattr(compilation_cache, "get_executable_and_time", None)
    write = getattr(compilation_cache, "put_executable_and_time", None)
    if read is None or write is None:
        return False
    if tuple(inspect.signature(read).parameters)[:3] != READ or tuple(inspect.signature(write).parameters) != WRITE:
        return False

    def remember(place: tuple[str, Any], executable: Any, seconds: int) -> None:
        kept[place] = executable, seconds
        if len(kept) > KEPT:
            kept.popitem(last=False)

    def read_or_kept(cache_key: str, compile_options: Any, backend: Any, *more: Any) -> tuple[Any, Any]:
        place = cache_key, backend
        if place in kept:
            kept.move_to_end(place)
            return kept[place]
        executable, seconds = read(cache_key, compile_options, backend, *more)
        if executable is not None:
            remember(place, executable, seconds)
        return executable, seconds

    def write_and_keep(cache_key: str, module_name: str, executable: Any, backend: Any, compile_time: int) -> None:
        write(cache_key, module_name, executable, backend, compile_time)
        remember((cache_key, backend), executable, compile_time)

    compilation_cache.get_executable_and_time = read_or_kept
    compilation_cache.put_executable_and_time = write_and_keep
    return True


def write_in_every_process() -> bool:
    """Has this process write its programs even if it is not the first one of a run.

    JAX has the first process alone write, whose programs the others read on GPUs. On CPUs, a program has a name of its own
    in each process, and the others would compile theirs in every session.

    Returns:
      Whether it does. It does not where JAX's version has another function.
    """
    write = getattr(compiler, "_cache_write", None)
    if write is None or tuple(inspect.signature(write).parameters) != CHECK:
        return False

    def write_as_the_first(*arguments: Any) -> None:
        state = distributed.global_state
        number, state.process_id = state.process_id, 0
        try:
            write(*arguments)
        finally:
            state.process_id = number

    compiler._cache_write = write_as_the_first
    return True
