"""Every parameter has one tensor, of the shape that a transposition explains."""

import dataclasses

import pytest

from distill.checkpoints import weights
from distill.checkpoints.huggingface import names
from distill.model.config import T5Config

CONFIG = T5Config(
    vocab_size=20, embed_dim=8, num_heads=2, head_dim=3, mlp_dim=5, num_encoder_layers=2, num_decoder_layers=3
)


@pytest.mark.parametrize(
    "changes",
    [{}, {"logits_via_embedding": True}, {"mlp_activations": ("relu",)}, {"relative_bias_per_layer": True}],
)
def test_the_entries_are_the_parameters(changes):
    config = dataclasses.replace(CONFIG, **changes)
    entries = list(names.entries(config))
    shapes = {"/".join(one.path): one.shape[::-1] if one.transposed else one.shape for one in entries}
    assert shapes == weights.flat_shapes(config)
    assert len({one.name for one in entries}) == len(entries)


@pytest.mark.parametrize(
    "name, path",
    [
        ("shared.weight", "token_embedder/embedding"),
        ("lm_head.weight", "decoder/logits_dense/kernel"),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", "encoder/layers_1/attention/query/kernel"),
        ("encoder.block.1.layer.1.DenseReluDense.wi_1.weight", "encoder/layers_1/mlp/wi_1/kernel"),
        ("decoder.block.2.layer.1.EncDecAttention.o.weight", "decoder/layers_2/encoder_decoder_attention/out/kernel"),
        ("decoder.block.2.layer.2.DenseReluDense.wo.weight", "decoder/layers_2/mlp/wo/kernel"),
        ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "decoder/relpos_bias/rel_embedding"),
        ("decoder.final_layer_norm.weight", "decoder/decoder_norm/scale"),
    ],
)
def test_literal_names(name, path):
    assert {one.name: "/".join(one.path) for one in names.entries(CONFIG)}[name] == path


def test_places_among_stacked_layers():
    for one in names.entries(CONFIG):
        place = one.stacked()
        expected = weights.stacked_name("/".join(one.path))
        assert (place and ("/".join(place[0]), place[1])) == expected
