"""Compiler options: which are accepted, and how others are rejected."""

import jax
import pytest

from distill.sharding import partitioning, xla_options


def test_accepted_options_are_returned_for_jit():
    mesh = partitioning.MeshConfig(4, 2, 1).build()
    for options in ({}, {"xla_cpu_enable_fast_math": True}, {"xla_cpu_enable_fast_math": False}):
        assert xla_options.accepted(options) == options
        assert xla_options.accepted(options, mesh) == options
        assert jax.jit(lambda x: x + 1, compiler_options=xla_options.accepted(options))(1) == 2
    assert xla_options.accepted(None) is None


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"xla_cpu_fast": True},
            "cpu compiler rejects COMPILER_OPTIONS .*No such compile option: 'xla_cpu_fast'",
        ),
        ({"xla_cpu_enable_fast_math": "maybe"}, "'maybe' is not a valid bool value"),
        ({"xla_cpu_enable_fast_math": None}, "of type bool, int, float or str; got 'xla_cpu_enable_fast_math': None"),
        ({3: True}, r"must map names \(str\) to values .* got 3: True"),
        (["xla_cpu_enable_fast_math"], r"must be a dict, name → value; got \['xla_cpu"),
    ],
)
def test_rejected_options_raise_one_error(options, message):
    with pytest.raises(ValueError, match=message):
        xla_options.accepted(options)
