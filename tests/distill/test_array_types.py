"""``AnyArray`` covers arrays on devices and on the host, traced ones included, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from distill.array_types import AnyArray


def test_arrays_on_devices_on_the_host_and_traced():
    assert isinstance(jnp.ones(2), AnyArray)
    assert isinstance(np.ones(2), AnyArray)
    traced = []
    jax.eval_shape(lambda x: traced.append(isinstance(x, AnyArray)), jax.ShapeDtypeStruct((2,), jnp.float32))
    assert traced == [True]


def test_numbers_and_lists_are_none():
    assert not isinstance(1.0, AnyArray)
    assert not isinstance([1.0], AnyArray)
    assert not isinstance(jax.ShapeDtypeStruct((2,), jnp.float32), AnyArray)
