"""Adapters in a tree of parameters: where they are, their axes, and what merging them gives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from distill.model import lora
from distill.model.lora import Lora
from distill.model.network import ModelInputs
from distill.model.parameters import flatten, param_logical_axes, param_shapes, unflatten
from tests.distill.model import test_t5gemma as t5gemma
from tests.distill.model.small_network import SMALL, logits_of, params_of, tokens_of

STACKED = dataclasses.replace(SMALL, scan_layers=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "LORA_RANK must be an integer ≥ 1; got 0"),
        ({"rank": True}, "got True"),
        ({"alpha": 0.0}, "LORA_ALPHA must be a finite number > 0; got 0.0"),
        ({"alpha": float("nan")}, "got nan"),
        ({"targets": ()}, r"LORA_TARGETS must name at least one pattern"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Lora(**{"rank": 2} | changes)


def test_a_text_in_place_of_a_tuple_is_refused():
    with pytest.raises(
        ValueError, match=r"LORA_TARGETS must be a tuple of patterns; got the text 'wo': write \('wo',\)"
    ):
        lora.patterns("LORA_TARGETS", "wo")


def test_by_default_every_kernel_of_attention_and_feed_forward_has_an_adapter():
    names = list(flatten(param_shapes(SMALL)))
    kernels = Lora(2).kernels(names)
    assert set(names) - set(kernels) == {
        name for name in names if "embed" in name or "norm" in name or "logits" in name
    }
    assert len(kernels) == 4 + 3 + 4 + 4 + 3


@pytest.mark.parametrize("config", [SMALL, STACKED])
def test_shapes_and_axes_are_those_of_the_kernel(config):
    adapted = jax.eval_shape(
        lambda p, key: lora.with_adapters(p, Lora(5), key), param_shapes(config), jax.random.key(0)
    )
    axes = flatten(lora.logical_axes(param_logical_axes(config), adapted))
    shapes = {name: leaf.shape for name, leaf in flatten(adapted).items()}
    assert set(axes) == set(shapes)
    layer, layers, kept = ("encoder", (1,), ("layers",)) if config.scan_layers else ("layers_0", (), ())
    wo = f"encoder/{layer}/mlp/wo"
    assert (shapes[f"{wo}/lora_a"], shapes[f"{wo}/lora_b"]) == ((48, *layers, 5), (5, *layers, 32))
    assert axes[f"{wo}/lora_a"] == PartitionSpec("mlp", *kept, None)
    assert axes[f"{wo}/lora_b"] == PartitionSpec(None, *kept, "embed")
    assert jax.tree.structure(lora.without(adapted)) == jax.tree.structure(param_shapes(config))


def test_the_network_with_adapters_equals_the_one_they_are_merged_into():
    params = params_of(SMALL)
    prepared = lora.with_adapters(params, Lora(4, alpha=6.0), jax.random.key(0))
    tokens = tokens_of(2, 7, 0), tokens_of(2, 6, 1)
    plain = logits_of(SMALL, params, *tokens)
    np.testing.assert_array_equal(logits_of(SMALL, lora.scaled(prepared), *tokens), plain)  # B is zero

    rng = np.random.default_rng(0)
    drawn = {
        name: jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32) if name.endswith("lora_b") else leaf
        for name, leaf in flatten(prepared).items()
    }
    merged = lora.merged(unflatten(drawn))
    got = logits_of(SMALL, lora.scaled(unflatten(drawn)), *tokens)
    np.testing.assert_allclose(got, logits_of(SMALL, merged, *tokens), rtol=1e-4, atol=1e-4)
    assert np.abs(got - plain).max() > 0.1
    name = "decoder/layers_0/encoder_decoder_attention/value"
    change = 1.5 * np.asarray(drawn[f"{name}/lora_a"]) @ np.asarray(drawn[f"{name}/lora_b"])
    wanted = np.asarray(flatten(params)[f"{name}/kernel"]) + change
    np.testing.assert_allclose(flatten(merged)[f"{name}/kernel"], wanted, rtol=1e-6, atol=1e-6)


def test_a_matrix_depends_on_seed_and_kernel_alone():
    """Not on the other targets; its variance is 1 / inputs."""
    params = params_of(SMALL)

    def drawn(lora_, seed=0):
        return flatten(lora.with_adapters(params, lora_, jax.random.key(seed)))

    some, few, other = (
        drawn(Lora(8, targets=("mlp/",))),
        drawn(Lora(8, targets=("wo/",))),
        drawn(Lora(8, targets=("wo/",)), 1),
    )
    name = "encoder/layers_0/mlp/wo/lora_a"
    np.testing.assert_array_equal(some[name], few[name])
    assert not np.array_equal(few[name], other[name])
    assert np.std(some[name]) == pytest.approx(48**-0.5, rel=0.2)
    assert not np.array_equal(some[name], some[name.replace("encoder", "decoder")])


def test_merged_attention_of_t5gemma2_uses_the_adapters_for_both_kinds_of_keys():
    _, config, params = t5gemma.pair("t5gemma2")
    prepared = lora.with_adapters(params, Lora(3, alpha=6.0), jax.random.key(0))
    rng = np.random.default_rng(0)
    drawn = {
        name: jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32) if name.endswith("lora_b") else leaf
        for name, leaf in flatten(prepared).items()
    }
    inputs = ModelInputs(t5gemma.tokens(0, 2, 11), t5gemma.started(t5gemma.tokens(1, 2, 9)))
    plain = t5gemma.logits(config, params, inputs)
    got = t5gemma.logits(config, lora.scaled(unflatten(drawn)), inputs)
    np.testing.assert_allclose(got, t5gemma.logits(config, lora.merged(unflatten(drawn)), inputs), rtol=1e-4, atol=1e-4)
    assert np.abs(got - plain).max() > 0.1
