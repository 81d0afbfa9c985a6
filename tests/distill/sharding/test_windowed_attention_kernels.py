"""The kernels of Gemma's attention in local layers: the keys that they read, and the values of plain attention."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from distill.sharding.windowed_attention_kernels import Near, Settings, keys_read
from tests.distill.sharding.test_windowed_attention import BATCH, FAR, check_equal, problem, values_and_gradients

# Windows that are smaller than a block of 128 keys, as large, and of more than one; merged keys after those of the window.
NEAR_CASES = {
    "smaller": (problem(512, 512, 2, 1, 128), (3, 4), {}),
    "a block before, none after": (problem(512, 512, 2, 2, 64), (128, 0), {"cap": 2.0}),
    "more than a block, causal": (problem(640, 640, 2, 1, 128), (130, 0), {"causal": True}),
    "merged": (problem(512, 640, 2, 1, 128, own=512), (40, 0), {"causal": True}),
}


@pytest.mark.parametrize("name", NEAR_CASES)
def test_a_local_layer_reads_the_keys_of_its_window(name, monkeypatch):
    """By both programs, that of a scan, which also computes global layers, and that of one layer."""
    monkeypatch.setattr("distill.sharding.windowed_attention._ROWS", (128,))
    (arrays, ids, own), window, rest = NEAR_CASES[name]
    fixed = {"own": own, "cap": None, "causal": False} | rest
    rng = np.random.default_rng(8)
    keep = None
    if name == "merged":
        keep = jnp.asarray(rng.random((BATCH, 1, 2, 1, arrays[1].shape[1])) < 0.8, jnp.float32) / 0.8
    reach = tuple(jnp.int32(distance) for distance in window)
    scanned, alone = Near(*window, 0.5), Near(*window, 1.0)
    run = functools.partial(values_and_gradients, arrays, ids, keep, **fixed)
    wanted = run(reach, kernel=False)
    check_equal(run(reach, kernel=True, near=scanned), wanted)
    check_equal(run(reach, kernel=True, near=alone), wanted)
    far = (jnp.int32(FAR), jnp.int32(FAR))
    check_equal(run(far, kernel=True, near=scanned), run(far, kernel=False))

    # Keys that no query of the last block can see are not read: they could be anything.
    broken = tuple(array.at[:, :128].set(jnp.nan) for array in arrays[1:])
    run = functools.partial(values_and_gradients, (arrays[0], *broken), ids, keep, **fixed)
    for near, everything in ((scanned, reach), (alone, reach), (scanned, far)):
        mixed = run(everything, kernel=True, near=near)[0][1]
        assert np.isfinite(mixed[:, -128:]).all() == (everything is reach)


@pytest.mark.parametrize(
    ("own", "rows", "near", "expected"),
    [
        (2048, 256, None, 2048),
        (2048, 256, Near(255, 256, 1.0), 768),  # two blocks before and after those of the queries
        (2048, 32, Near(3, 4, 1.0), 384),
        (2048, 512, Near(129, 0, 1.0), 768),
        (2048, 256, Near(255, 256, 0.5), 1408),  # half of the layers are global
        (512, 256, Near(255, 256, 1.0), 512),  # the window is no shorter than the row
        (2048, 256, Near(0, 0, 0.0), 2048),
    ],
)
def test_the_number_of_keys_that_a_block_of_queries_reads(own, rows, near, expected):
    assert keys_read(Settings(128, 2, own, 1.0, None, near), rows, own) == expected
    assert keys_read(Settings(128, 2, own, 1.0, None, near), rows, own + 384) == expected + 384  # merged keys: all
