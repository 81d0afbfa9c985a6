"""Configurations inferred from shapes; arrays that are not T5Gemma's."""

import dataclasses

import pytest

from distill.checkpoints.gemma_flax import names, shapes
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig

ENCODER = StackConfig(3, 24, 40, 4, 4, 8, 8.0, 4096, 2)
DECODER = StackConfig(2, 16, 32, 4, 2, 6, 6.0, 4096, 2)
CONFIG = T5GemmaConfig(1, 50, ENCODER, DECODER, 50.0, 30.0)
GATES = {"encoder": True, "decoder": False}


def shapes_of(config=CONFIG):
    return {entry.name: entry.shape for entry in names.entries(config, GATES)}


def test_a_configuration_from_its_shapes():
    found = shapes.infer_config("x", shapes_of(), dropout_rate=0.1)
    assert found == dataclasses.replace(CONFIG, dropout_rate=0.1)
    assert shapes.transposed_gates("x", shapes_of()) == GATES
    with pytest.raises(ValueError, match="no field 'dropout_rat'; did you mean 'dropout_rate'"):
        shapes.infer_config("x", shapes_of(), dropout_rat=0.1)


def changed(**changes):
    """The shapes with some replaced, or left out for None. In names, '__' stands for '/'."""
    out = shapes_of() | {name.replace("__", "/"): shape for name, shape in changes.items()}
    return {name: shape for name, shape in out.items() if shape is not None}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer_0/attn/q_einsum/w": (4, 16, 8)}, "x is a decoder-only Gemma checkpoint; .* gin/models/t5gemma_"),
        ({"stacked_layers/attention_type_0/attn/q_einsum/w": (2, 4, 16, 8)}, "decoder-only Gemma"),
        (changed(decoder__layer_0__attn___query_norm__scale=(8,)), "norms of queries and keys; T5Gemma 2 is read from"),
        (
            {name: shape for name, shape in shapes_of().items() if "cross_attn" not in name},
            "its decoder has no cross-attention; T5Gemma 2 is read from",
        ),
        (
            {name: shape for name, shape in shapes_of().items() if name.startswith("encoder")},
            "decoder/embedder/input_embedding must have 2 axes; there is none",
        ),
        (
            changed(encoder__embedder__input_embedding=(51, 24)),
            r"its token tables have \[50, 51\] rows; expected the same",
        ),
        (changed(encoder__layer_0__attn__attn_vec_einsum__w=(4, 192)), r"must have 3 axes; got \[4, 192\]"),
        (changed(decoder__layer_0__attn__kv_einsum__w=(2, 3, 16, 6)), "decoder: StackConfig.num_kv_heads must divide"),
        (changed(encoder__layer_99999__final_norm__scale=(24,)), "it has 100000 encoder layers; expected 1 to 1024"),
    ],
)
def test_arrays_that_are_no_t5gemma(given, message):
    with pytest.raises(ValueError, match=message):
        shapes.infer_config("x", given)


def test_gates_whose_order_shapes_do_not_determine():
    square = dataclasses.replace(CONFIG, decoder=dataclasses.replace(DECODER, mlp_dim=16))
    with pytest.raises(
        ValueError, match="inner and outer width are both 16; convert the checkpoint to a Hugging Face folder"
    ):
        shapes.transposed_gates("x", shapes_of(square))
