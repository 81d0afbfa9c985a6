"""Compiled programs are handed on from one test session to the next: whole ones, to one session at a time."""

import os
import subprocess
import sys
import time

import jax
from jax._src import compilation_cache, compiler

import kept_programs


def write(folder, name, content=b"program", used=None):
    path = folder / f"{name}-cache"
    path.write_bytes(compilation_cache.compress_executable(content))
    if used is not None:
        os.utime(path, (used, used))
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_name_of_a_program_does_not_hold_its_folder():
    """JAX hashes the options of the compiler, among which it names a folder for GPUs; sessions have different folders."""
    options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
    assert jax.config.jax_compilation_cache_dir.encode() not in options.SerializeAsString()


def test_a_session_finds_the_whole_programs_of_the_one_before(tmp_path):
    kept = tmp_path / "programs" / "jax-1"
    taken = kept_programs.take(kept)
    assert names(taken) == []
    assert not kept.exists()
    began = time.time() - 1
    whole, cut = write(taken, "whole"), write(taken, "cut")
    cut.write_bytes(whole.read_bytes()[:-3])
    kept_programs.put_back(taken, kept, began)
    assert names(kept) == ["whole-cache"]

    again = kept_programs.take(kept)
    assert names(again) == ["whole-cache"]
    kept_programs.put_back(again, kept, time.time())
    assert names(kept.parent) == ["jax-1"]


def test_the_second_of_two_sessions_at_a_time_begins_with_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    kept = tmp_path / "programs" / "jax-1"
    kept.mkdir(parents=True)
    write(kept, "old")
    first = kept_programs.take(kept)
    monkeypatch.setattr(os, "getpid", os.getppid)
    second = kept_programs.take(kept)
    assert names(first) == ["old-cache"]
    assert names(second) == []
    kept_programs.put_back(first, kept, time.time())
    kept_programs.put_back(second, kept, time.time())
    assert names(kept.parent) == ["jax-1"]
    assert names(kept) == ["old-cache"]


def test_the_programs_used_longest_ago_leave_a_full_folder(tmp_path, monkeypatch):
    kept = tmp_path / "programs" / "jax-1"
    taken = kept_programs.take(kept)
    now = time.time()
    for place, name in enumerate(("oldest", "older", "newest")):
        write(taken, name, os.urandom(1000), used=now - 1000 + place)
    monkeypatch.setattr(kept_programs, "LIMIT", 2500)
    kept_programs.put_back(taken, kept, now)
    assert names(kept) == ["newest-cache", "older-cache"]


def test_folders_of_killed_sessions_and_unused_ones_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"in-use-{ended.pid}", f"in-use-{os.getppid()}", "jax-0", "jax-2"):
        (tmp_path / name).mkdir()
    old = time.time() - (kept_programs.DAYS + 1) * 86400
    os.utime(tmp_path / "jax-0", (old, old))
    taken = kept_programs.take(tmp_path / "jax-1")
    assert names(tmp_path) == sorted([f"in-use-{os.getppid()}", taken.name, "jax-2"])


def test_a_folder_that_was_removed_in_between_is_not_put_back(tmp_path):
    kept = tmp_path / "programs" / "jax-1"
    kept_programs.take(kept).rmdir()
    kept_programs.put_back(tmp_path / "programs" / f"in-use-{os.getpid()}", kept, time.time())
    assert names(kept.parent) == []


def test_a_folder_that_cannot_be_written_is_replaced_by_a_temporary_one_which_is_removed(tmp_path):
    (tmp_path / "file").write_text("")
    kept = tmp_path / "file" / "jax-1"
    taken = kept_programs.take(kept)
    assert taken.is_dir()
    kept_programs.put_back(taken, kept, time.time())
    assert not taken.exists()
