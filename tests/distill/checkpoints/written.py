"""Checkpoints of every kind for the tests of this folder."""

import jax
import numpy as np

from distill.checkpoints import conversion, huggingface
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.weights import flatten
from distill.model.network import T5Config
from distill.model.parameters import param_shapes, unstack_layers

CONFIG = T5Config(20, 8, 2, 4, 12, 2, 3)


def random_params(config, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), param_shapes(config))


def write_source(folder, config, params, kind):
    if kind == "hf":
        plain, config = unstack_layers(params, config)
        huggingface.save_pretrained_folder(plain, config, folder)
    elif kind == "distill":
        conversion.write_model_dir(flatten(params).__getitem__, config, folder, 4)
    else:
        format = "orbax" if kind == "t5x_orbax" else "native"
        t5x_checkpoints.save(params, config, folder, 4, format=format)
    return folder


def same(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
