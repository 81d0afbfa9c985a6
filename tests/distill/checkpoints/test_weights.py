"""Names of layers, heads that are an axis, and what does not fit a configuration."""

import dataclasses

import jax
import numpy as np
import pytest

from distill.checkpoints import arrays, weights
from distill.checkpoints.weights import Weights
from distill.model import parameters
from distill.model.config import T5Config

CONFIG = T5Config(
    vocab_size=20, embed_dim=8, num_heads=2, head_dim=3, mlp_dim=5, num_encoder_layers=2, num_decoder_layers=3
)
SCANNED = dataclasses.replace(CONFIG, scan_layers=True)


@pytest.fixture(scope="module")
def leaves():
    """Parameters with distinct random values, by name."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in weights.flat_shapes(CONFIG).items()}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("encoder/layers_3/mlp/wo/kernel", ("encoder/encoder/mlp/wo/kernel", 3)),
        ("decoder/layers_12/mlp/wo/kernel", ("decoder/decoder/mlp/wo/kernel", 12)),
        ("encoder/layers_03/mlp/wo/kernel", None),
        ("encoder/layers_²/mlp/wo/kernel", None),
        ("encoder/layers_/mlp/wo/kernel", None),
        ("other/layers_3/mlp/wo/kernel", None),
        ("encoder/layers_3", None),
        ("token_embedder/embedding", None),
    ],
)
def test_names_of_layers(name, expected):
    assert weights.stacked_name(name) == expected
    if expected is not None:
        assert weights.unstacked_name(*expected) == name
        assert weights.is_stacked(expected[0]) and not weights.is_stacked(name)


def test_trees_are_flattened_and_back(leaves):
    tree = weights.unflatten(leaves)
    assert set(tree) == {"token_embedder", "encoder", "decoder"}
    again = weights.flatten(tree)
    assert set(again) == set(leaves)
    assert all(again[name] is leaves[name] for name in leaves)


def test_layers_are_stacked_and_unstacked_as_read(leaves):
    stacked = weights.flatten(Weights(weights.from_leaves(leaves), SCANNED).tree())
    expected = parameters.stack_layers(weights.unflatten(leaves), CONFIG)[0]
    jax.tree.map(np.testing.assert_array_equal, weights.unflatten(stacked), jax.tree.map(np.asarray, expected))
    again = weights.flatten(Weights(weights.from_leaves(stacked), CONFIG).tree())
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(again[name], leaf)


def test_a_part_of_a_layer_is_the_part(leaves):
    reader = Weights(weights.from_leaves(leaves), SCANNED)
    index = (slice(1, 4), slice(2, 3))
    found = reader.read("decoder/decoder/mlp/wo/kernel", index)
    np.testing.assert_array_equal(found, leaves["decoder/layers_2/mlp/wo/kernel"][1:4, None])


@pytest.mark.parametrize("config, layers", [(CONFIG, ()), (SCANNED, (2,))])
def test_heads_are_split_and_joined(config, layers):
    stack = "encoder/encoder" if layers else "encoder/layers_0"
    rng = np.random.default_rng(1)
    query, out = rng.normal(size=(8, *layers, 6)), rng.normal(size=(6, *layers, 8))
    split = weights.split_heads(f"{stack}/attention/query/kernel", query, config)
    assert split.shape == (8, *layers, 2, 3)
    np.testing.assert_array_equal(split[..., 1, 2], query[..., 5])
    np.testing.assert_array_equal(weights.join_heads(f"{stack}/attention/query/kernel", split), query)
    split = weights.split_heads(f"{stack}/attention/out/kernel", out, config)
    assert split.shape == (2, *layers, 3, 8)
    np.testing.assert_array_equal(split[1, ..., 2, :], out[5])
    np.testing.assert_array_equal(weights.join_heads(f"{stack}/attention/out/kernel", split), out)
    assert weights.split_heads(f"{stack}/mlp/wo/kernel", query, config) is query


def test_every_difference_is_listed(leaves):
    held = {name: leaf for name, leaf in leaves.items() if name != "decoder/decoder_norm/scale"}
    held["encoder/encoder_norm/scale"] = np.zeros(9, np.float32)
    held["extra/kernel"] = np.zeros((1, 2), np.float32)
    held["encoder/layers_0/mlp/wo/kernel"] = np.zeros((5, 8), np.int32)
    with pytest.raises(ValueError) as caught:
        weights.check_fit(weights.from_leaves(held), CONFIG)
    text = str(caught.value)
    for part in (
        "4 differences", "decoder/decoder_norm/scale: checkpoint has none, configuration [8]",
        "encoder/encoder_norm/scale: checkpoint [9], configuration [8]", "extra/kernel: checkpoint [1, 2]",
        "encoder/layers_0/mlp/wo/kernel: checkpoint holds int32",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    "changes, hint",
    [
        ({"vocab_size": 24}, "vocabulary 20 there, 24 here"),
        ({"num_decoder_layers": 2}, "3 decoder layers there, 2 here"),
        ({"logits_via_embedding": True}, "the checkpoint has a kernel for the logits"),
    ],
)
def test_plain_causes_are_stated(leaves, changes, hint):
    with pytest.raises(ValueError, match=hint):
        Weights(weights.from_leaves(leaves), dataclasses.replace(CONFIG, **changes))


def test_parameters_of_another_configuration_are_refused(leaves):
    tree = weights.unflatten({**leaves, "decoder/decoder_norm/scale": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"decoder/decoder_norm/scale: \[3\], configuration \[8\]"):
        weights.as_leaves(tree, CONFIG)
    assert set(weights.as_leaves(weights.unflatten(leaves), CONFIG)) == set(leaves)


@pytest.mark.parametrize(
    "changes",
    [{}, {"scan_layers": True}, {"logits_via_embedding": True}, {"mlp_activations": ("relu",)},
     {"relative_bias_per_layer": True}],
)  # fmt: skip
def test_the_configuration_is_inferred_from_shapes(changes):
    config = dataclasses.replace(CONFIG, **changes)
    shapes = {name: np.zeros(shape, np.float32) for name, shape in weights.flat_shapes(config).items()}
    assert weights.infer_config(weights.from_leaves(shapes)) == config
    overridden = weights.infer_config(weights.from_leaves(shapes), dropout_rate=0.0)
    assert overridden == dataclasses.replace(config, dropout_rate=0.0)


def test_arrays_of_another_model_have_no_configuration(leaves):
    with pytest.raises(ValueError, match="is not a T5 checkpoint"):
        weights.infer_config(weights.from_leaves({"a/kernel": np.zeros((2, 2))}))
    with pytest.raises(ValueError, match="is not a T5 checkpoint"):
        weights.infer_config(weights.from_leaves({**leaves, "decoder/relpos_bias/rel_embedding": np.zeros((5, 32))}))


def without(leaves, *endings):
    return weights.from_leaves({name: leaf for name, leaf in leaves.items() if not name.endswith(endings)})


def split(leaves):
    """The same parameters with heads as an axis, as T5X's scalable layout stores them."""
    return {name: weights.split_heads(name, leaf, CONFIG) for name, leaf in leaves.items()}


def test_the_number_of_heads_comes_from_any_bias_or_split_kernel(leaves):
    decoder, both = "decoder/relpos_bias/rel_embedding", "relpos_bias/rel_embedding"
    assert weights.infer_config(weights.from_leaves(leaves)).num_heads == 2
    assert weights.infer_config(without(leaves, decoder)).num_heads == 2
    found = weights.infer_config(without(split(leaves), both))
    assert (found.num_heads, found.head_dim, found.relative_attention_num_buckets) == (2, 3, 32)
    given = weights.infer_config(without(leaves, both), num_heads=3)
    assert (given.num_heads, given.head_dim, given.relative_bias_per_layer) == (3, 2, False)
    with pytest.raises(ValueError, match="do not determine the number of heads; give num_heads"):
        weights.infer_config(without(leaves, both))


def test_numbers_of_heads_that_differ_are_refused(leaves):
    other = {**leaves, "decoder/relpos_bias/rel_embedding": np.zeros((3, 32), np.float32)}
    with pytest.raises(
        ValueError, match=r"numbers of heads differ: 3 in decoder/relpos_bias.*, 2 in encoder/relpos_bias"
    ):
        weights.infer_config(weights.from_leaves(other))


def test_checkpoints_of_other_things_have_no_config(tmp_path):
    def checkpoint(**shapes):
        info = {n.replace("__", "/"): arrays.in_memory(np.zeros(s, np.float32)) for n, s in shapes.items()}
        return weights.Checkpoint("here", info)

    with pytest.raises(ValueError, match="is not a T5 checkpoint: no parameter"):
        weights.infer_config(checkpoint(dense__kernel=(3, 4)))
    t5 = {
        "token_embedder__embedding": (20, 8),
        "encoder__relpos_bias__rel_embedding": (3, 32),
        "encoder__layers_0__attention__query__kernel": (8, 8),
        "encoder__layers_0__mlp__wi__kernel": (8, 12),
    }
    with pytest.raises(ValueError, match="not a T5 checkpoint"):
        weights.infer_config(checkpoint(**t5))  # 8 columns are not 3 heads
    t5["encoder__relpos_bias__rel_embedding"] = (2, 32)
    with pytest.raises(ValueError, match="0 decoder layers"):
        weights.infer_config(checkpoint(**t5))
    with pytest.raises(ValueError, match="decoder layers"):
        weights.infer_config(checkpoint(**t5, decoder__layers_999999__mlp__wi__kernel=(8, 12)))
