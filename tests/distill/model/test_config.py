"""Configurations of a network that are accepted, and the errors for those that are not."""

import dataclasses

import pytest

from distill.model.config import ACTIVATIONS, ATTENTIONS, DTYPES, REMAT_POLICIES, T5Config

SMALL = T5Config(
    vocab_size=10, embed_dim=4, num_heads=2, head_dim=3, mlp_dim=5, num_encoder_layers=1, num_decoder_layers=2
)
SIZES = ("vocab_size", "embed_dim", "num_heads", "head_dim", "mlp_dim", "num_encoder_layers", "num_decoder_layers")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", None])
@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_integers_from_1(name, value):
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(SMALL, **{name: value})
    assert f"T5Config.{name}" in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("dropout_rate", 1.0, "1.0"),
        ("dropout_rate", -0.1, "-0.1"),
        ("dropout_rate", float("nan"), "nan"),
        ("layer_norm_epsilon", 0.0, "0.0"),
        ("layer_norm_epsilon", float("nan"), "nan"),
        ("relative_attention_num_buckets", 6, "multiple of 4"),
        ("relative_attention_num_buckets", 0, "multiple of 4"),
        ("relative_attention_max_distance", 16, "16"),
        ("dtype", "float16", "'float32', 'bfloat16'"),
        ("dtype", "bfloat61", "did you mean 'bfloat16'"),
        ("remat_policy", "ful", "did you mean 'full'"),
        ("attention", "palas", "did you mean 'pallas'"),
        ("mlp_activations", (), "at least one"),
        ("mlp_activations", ("gelu", "liner"), "did you mean 'linear'"),
    ],
)
def test_values_out_of_range_and_unknown_names(name, value, expected):
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(SMALL, **{name: value})
    assert f"T5Config.{name}" in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "name, choices",
    [("dtype", DTYPES), ("remat_policy", REMAT_POLICIES), ("attention", ATTENTIONS)],
)
def test_every_listed_choice_is_accepted(name, choices):
    assert [getattr(dataclasses.replace(SMALL, **{name: choice}), name) for choice in choices] == list(choices)


def test_the_smallest_distances_that_fit_the_buckets():
    config = dataclasses.replace(SMALL, relative_attention_num_buckets=4, relative_attention_max_distance=3)
    assert config.relative_attention_max_distance == 3
    with pytest.raises(ValueError, match="max_distance"):
        dataclasses.replace(config, relative_attention_max_distance=2)


def test_lists_of_activations_become_hashable():
    config = dataclasses.replace(SMALL, mlp_activations=["silu", "linear"])
    assert config.mlp_activations == ("silu", "linear")
    assert hash(config) == hash(dataclasses.replace(SMALL, mlp_activations=("silu", "linear")))
    assert set(config.mlp_activations) <= set(ACTIVATIONS)
