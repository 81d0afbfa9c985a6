"""Names and shapes of google-deepmind/gemma's arrays, for published sizes."""

import dataclasses
import math

import numpy as np
import pytest

from distill.api import configuration
from distill.checkpoints.gemma_flax import names
from distill.checkpoints.weights import flat_shapes


def config_of(size, **layers):
    """The configuration of a model file, of fewer layers if ``layers`` names a stack."""
    files = [f"gin/models/t5gemma_{size}.gin", "gin/tasks/svamp.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
    configuration.parse(files, ["DATA_DIR = 'x'", "MODEL_DIR = 'x'", "VOCABULARY_PATH = 'bytes'"])
    config = configuration.value("MODEL")
    few = {stack: dataclasses.replace(getattr(config, stack), num_layers=number) for stack, number in layers.items()}
    return dataclasses.replace(config, **few)


@pytest.mark.parametrize("size", ["b", "9b_2b"])
def test_every_parameter_has_a_part_of_an_array(size):
    config = config_of(size, encoder=2, decoder=1)
    entries = list(names.entries(config, {"encoder": True, "decoder": False}))
    assert sorted(entry.path for entry in entries) == sorted(flat_shapes(config))
    arrays = {entry.name: entry.shape for entry in entries}
    parts = {(entry.name, entry.index) for entry in entries}
    assert len(parts) == len(entries)
    for name, shape in arrays.items():
        read = [entry for entry in entries if entry.name == name]
        assert [entry.index for entry in read] == ([None] if len(read) == 1 else list(range(shape[0])))
    assert sum(map(math.prod, arrays.values())) == sum(map(math.prod, flat_shapes(config).values()))


def test_shapes_of_an_unbalanced_model():
    """As ``T5GemmaPreset.GEMMA2_9B_2B`` has them: transposed gates in the 9B stack, keys of the encoder's width."""
    entries = names.entries(config_of("9b_2b"), {"encoder": True, "decoder": False})
    shapes = {entry.name: entry.shape for entry in entries}
    assert shapes["encoder/embedder/input_embedding"] == (256_000, 3584)
    assert shapes["encoder/layer_41/mlp/gating_einsum"] == (2, 14336, 3584)
    assert shapes["encoder/layer_0/attn/kv_einsum/w"] == (2, 8, 3584, 256)
    assert shapes["decoder/layer_25/mlp/gating_einsum"] == (2, 2304, 9216)
    assert shapes["decoder/layer_0/cross_attn/q_einsum/w"] == (8, 2304, 256)
    assert shapes["decoder/layer_0/cross_attn/kv_einsum/w"] == (2, 4, 3584, 256)
    assert shapes["decoder/layer_0/attn/attn_vec_einsum/w"] == (8, 256, 2304)
    assert shapes["decoder/layer_0/post_cross_attention_norm/scale"] == (2304,)
    joined = {entry.name: entry.shape for entry in names.entries(config_of("b"), {"encoder": False, "decoder": False})}
    assert joined["decoder/layer_0/attn/qkv_einsum/w"] == (3, 12, 768, 64)
    assert "encoder/layer_0/attn/q_einsum/w" not in joined


def test_heads_are_joined():
    config = config_of("b")
    by_path = {entry.path: entry for entry in names.entries(config, {"encoder": False, "decoder": False})}
    kernel = np.arange(2 * 3 * 4).reshape(2, 3, 4)  # heads, width, head_dim
    joined = by_path["encoder/layers_0/attention/query/kernel"].converted(kernel)
    x = np.arange(3) + 1
    np.testing.assert_array_equal((x @ joined).reshape(2, 4), np.einsum("d,ndh->nh", x, kernel))
    out = kernel.swapaxes(1, 2)  # heads, head_dim, width
    y = np.arange(8).reshape(2, 4)
    joined = by_path["encoder/layers_0/attention/out/kernel"].converted(out)
    np.testing.assert_array_equal(y.reshape(-1) @ joined, np.einsum("nh,nhd->d", y, out))
