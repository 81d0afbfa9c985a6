"""Compiled programs are kept, and dropped before they take all memory mappings that Linux allows."""

import jax
import jax.numpy as jnp
import pytest
from jax._src import compiler, distributed

import compiled_programs


def test_programs_are_dropped_when_they_take_many_mappings(monkeypatch):
    before = compiled_programs.mappings()
    if before is None:
        pytest.skip("this system does not state memory mappings")
    traced = []

    @jax.jit
    def function(x):
        traced.append(x.shape)
        return x * 3 + jnp.sort(x)

    function(jnp.ones(1001))
    monkeypatch.setattr(compiled_programs, "SHARE", 1.0)
    assert not compiled_programs.drop_many()
    function(jnp.ones(1001))
    assert traced == [(1001,)]
    with_program = compiled_programs.mappings()[0]
    monkeypatch.setattr(compiled_programs, "SHARE", 0.0)
    assert compiled_programs.drop_many()
    assert not compiled_programs.kept
    assert compiled_programs.mappings()[0] < with_program
    function(jnp.ones(1001))
    assert traced == [(1001,), (1001,)]


def test_every_process_writes_and_keeps_its_number(monkeypatch):
    writing = []

    def write(cache_key, compile_time_secs, module_name, backend, executable, host_callbacks):
        writing.append(distributed.global_state.process_id)

    monkeypatch.setattr(compiler, "_cache_write", write)
    monkeypatch.setattr(distributed.global_state, "process_id", 3)
    assert compiled_programs.write_in_every_process()
    compiler._cache_write("key", 1.0, "jit_f", None, None, ())
    assert writing == [0]
    assert distributed.global_state.process_id == 3
    monkeypatch.setattr(compiler, "_cache_write", lambda cache_key: None)
    assert not compiled_programs.write_in_every_process()
