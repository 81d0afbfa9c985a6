"""The persistent compilation cache: where it is, when it is off, and that a second process compiles nothing."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from distill.cli import compilation_cache

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv(compilation_cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compilation_cache.location("0.7.0")
    assert folder.parent == tmp_path / "distill" / "compiled"
    assert folder.name.startswith("jax-0.7.0-")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to pass over
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert compilation_cache.location("0.7.0").is_relative_to(tmp_path / "home" / ".cache" / "distill")
    monkeypatch.setenv(compilation_cache.VARIABLE, "~/mine")
    assert compilation_cache.location("0.7.0").parent == tmp_path / "home" / "mine"
    assert not list(tmp_path.iterdir())  # nothing is made by asking


@pytest.mark.parametrize("word", ["off", "OFF", "0", "no"])
def test_it_can_be_switched_off(word, monkeypatch):
    monkeypatch.setenv(compilation_cache.VARIABLE, word)
    assert compilation_cache.location("0.7.0") is None


CODE = """
import json, sys, warnings
warnings.simplefilter(sys.argv[1])
import jax
from distill.cli import compilation_cache as compile_cache
compile_cache._MIN_SECONDS = 0
folder = compile_cache.enable()
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: jax.numpy.sort(x @ x))(jax.numpy.ones((64, 64))).block_until_ready()
hits, misses = (sum(name.endswith(end) for name in events) for end in ("cache_hits", "cache_misses"))
print(json.dumps([str(folder), hits, misses]))
"""


def run(tmp_path, warnings="error", **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "DISTILL_")) and k != "XLA_FLAGS"}
    environment = {**kept, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-c", CODE, warnings]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert ("Error reading persistent compilation cache entry" in done.stderr) == (warnings != "error"), done.stderr
    assert warnings != "error" or done.stderr == ""
    return json.loads(done.stdout)


def test_a_second_process_compiles_nothing(tmp_path):
    folder, hits, misses = run(tmp_path)
    assert pathlib.Path(folder).is_relative_to(tmp_path) and hits == 0 and misses > 0
    again, hits_again, misses_again = run(tmp_path)
    assert (again, hits_again, misses_again) == (folder, misses, 0)


def test_damaged_programs_are_compiled_and_written_again(tmp_path):
    folder, _, misses = run(tmp_path)
    programs = sorted(pathlib.Path(folder).glob("*-cache"))
    assert len(programs) == misses

    def cut():
        for program in programs:
            program.write_bytes(program.read_bytes()[: program.stat().st_size // 2])

    cut()
    for used in pathlib.Path(folder).glob("*-atime"):  # JAX writes it last
        used.unlink()
    other = pathlib.Path(folder, "notes.txt")
    other.touch()
    assert run(tmp_path) == [folder, 0, misses]  # without a warning
    cut()
    assert run(tmp_path, warnings="default") == [folder, 0, misses]
    assert run(tmp_path) == [folder, misses, 0]
    assert other.exists() and sorted(pathlib.Path(folder).glob("*-cache")) == programs


def test_settings_of_the_user_and_of_jax_come_first(tmp_path):
    theirs = tmp_path / "theirs"
    assert run(tmp_path / "x", DISTILL_COMPILATION_CACHE="off")[0] == "None"
    assert run(tmp_path / "x", JAX_ENABLE_COMPILATION_CACHE="false")[0] == "None"
    assert run(tmp_path / "x", JAX_COMPILATION_CACHE_DIR=str(theirs))[0] == "None"
    (tmp_path / "file").touch()
    assert run(tmp_path / "file")[0] == "None"  # a cache folder that cannot be made is no error
    assert not (tmp_path / "x").exists()
