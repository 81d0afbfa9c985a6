"""Int8 weights: their values, and decoding with them against decoding with the float32 numbers that they stand for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from distill.model import int8
from distill.model.decoding import generate
from distill.model.network import ModelInputs
from distill.model.networks import network_of
from distill.model.parameters import flatten, init_params, param_logical_axes, stack_layers
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
from distill.sharding import partitioning
from distill.sharding.dense import INT8_SCALE, Dense
from tests.distill.model import small_network

UNTIED = small_network.SMALL
TIED = dataclasses.replace(UNTIED, logits_via_embedding=True)
INPUTS = small_network.tokens_of(4, 7, 0, lengths=(7, 5, 3, 6))


def gemma(version: int) -> T5GemmaConfig:
    stack = StackConfig(
        embed_dim=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=24,
        num_layers=1,
        query_pre_attn_scalar=8.0,
        sliding_window=4,
        global_every=2,
    )
    return T5GemmaConfig(vocab_size=UNTIED.vocab_size, encoder=stack, decoder=stack, version=version)


def params_of(config):
    if not isinstance(config, T5GemmaConfig):
        return small_network.params_of(config)
    return jax.device_get(jax.jit(init_params, static_argnums=0)(config, jax.random.key(0)))


small_of = jax.jit(int8.with_int8_weights, static_argnums=1)


def dequantized(params):
    """The float32 parameters that int8 weights stand for."""
    out = {}
    for name, node in params.items():
        if not isinstance(node, dict):
            out[name] = node
        elif INT8_SCALE in node:
            rest = dict(node)
            scale = rest.pop(INT8_SCALE)
            out[name] = {key: np.asarray(leaf, np.float32) * np.asarray(scale) for key, leaf in rest.items()}
        else:
            out[name] = dequantized(node)
    return out


@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_is_at_most_half_a_step_from_its_int8_number(axis):
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(40, 3, 30)) * 10.0 ** rng.integers(-9, 9, (1, 3, 30))).astype(np.float32)
    whole, scale = jax.device_get(int8.quantized(weight, axis))
    assert whole.dtype == np.int8 and scale.shape == tuple(
        1 if place == axis else n for place, n in enumerate((40, 3, 30))
    )
    assert (np.abs(whole.astype(int)).max(axis) == 127).all()  # the whole range is used, and is symmetric
    assert (np.abs(weight - whole * scale) <= scale * (0.5 + 1e-5)).all()
    # It is the nearest of all numbers that the scale can give.
    grid = np.arange(-127, 128, dtype=np.float32) * scale[..., None]
    assert (np.abs(weight - whole * scale) <= np.abs(weight[..., None] - grid).min(-1) + scale * 1e-5).all()


def test_channels_of_zeros_stay_zeros():
    whole, scale = int8.quantized(np.zeros((4, 2), np.float32))
    assert not np.any(whole) and not np.any(scale)
    params = {"kernel": whole, INT8_SCALE: scale}
    dense = Dense(2, ("embed", "mlp"), jnp.dtype("float32"))
    out = dense.apply({"params": params}, jnp.ones((1, 3, 4), jnp.float32))
    np.testing.assert_array_equal(out, np.zeros((1, 3, 2)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("out_dtype", [None, "float32"])
def test_a_product_differs_by_at_most_half_a_step_per_input(dtype, out_dtype):
    rng = np.random.default_rng(1)
    x, kernel = jnp.asarray(rng.normal(size=(2, 3, 64)), dtype), rng.normal(size=(64, 16)).astype(np.float32)
    whole, scale = jax.device_get(int8.quantized(kernel))
    dense = Dense(16, ("embed", "mlp"), jnp.dtype(dtype))
    got = dense.apply({"params": {"kernel": whole, INT8_SCALE: scale}}, x, out_dtype and jnp.dtype(out_dtype))
    assert got.dtype == jnp.dtype(out_dtype or dtype)
    wide = np.asarray(x, np.float64)
    exact, sums = wide @ (whole * scale.astype(np.float64)), np.abs(wide) @ (np.abs(whole) * scale)
    # int8 numbers are exact in the compute dtype and sums are float32: only the result is rounded.
    rounding = 2.0**-8 if got.dtype == jnp.bfloat16 else 0.0
    assert (np.abs(np.asarray(got, np.float64) - exact) <= np.abs(exact) * rounding + sums * 1e-6).all()
    bound = np.abs(wide).sum(-1, keepdims=True) * scale / 2
    assert (np.abs(exact - wide @ kernel) <= bound * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    "config, method",
    [(UNTIED, "beam"), (TIED, "greedy"), (gemma(1), "greedy"), (gemma(2), "greedy")],
    ids=["untied", "tied", "gemma", "gemma2"],
)
def test_decoding_is_that_of_the_numbers_that_int8_weights_stand_for(config, method):
    """Encoder, prompt, caches and logits: every product has its scale."""
    params = params_of(config)
    small = jax.device_get(small_of(params, config))
    held = flatten(small)
    kernels = {name for name in held if name.endswith("/kernel")}
    assert all(held[name].dtype == np.int8 for name in kernels) and len(kernels) >= 12
    tables = {name: held[name].dtype for name in held if name.endswith("embedding") and name != "rel_embedding"}
    assert (np.int8 in tables.values()) == config.logits_via_embedding
    plain = dequantized(small)
    assert jax.tree.map(np.shape, plain) == jax.tree.map(np.shape, params)
    settings = {"max_decode_len": 6, "method": method, "num_beams": 2, "prompt": (5,)}
    wanted = generate(config, plain, INPUTS, **settings)
    for given in (params, small) if config is TIED else (params,):
        got = generate(config, given, INPUTS, weights="int8", **settings)
        np.testing.assert_array_equal(got.tokens, wanted.tokens)
        np.testing.assert_allclose(got.log_probs, wanted.log_probs, rtol=1e-4)


def test_stacked_layers_have_the_same_int8_numbers():
    config = dataclasses.replace(UNTIED, num_encoder_layers=2, num_decoder_layers=2)
    params = params_of(config)
    stacked, scanned = stack_layers(params, config)
    got, _ = stack_layers(jax.device_get(small_of(params, config)), config)
    wanted = jax.device_get(small_of(stacked, scanned))
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_scales_are_sharded_as_the_outputs_of_their_weights():
    config = dataclasses.replace(TIED, scan_layers=True, dtype="bfloat16")
    axes = flatten(int8.int8_logical_axes(param_logical_axes(config), config))
    assert axes["encoder/encoder/mlp/wo/int8_scale"] == jax.sharding.PartitionSpec(None, "layers", "embed")
    assert axes["token_embedder/int8_scale"] == jax.sharding.PartitionSpec("vocab", None)
    mesh = partitioning.MeshConfig(2, 2, 2).build()
    params = params_of(config)
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        got = flatten(int8.placed(params, config, mesh, partitioning.DEFAULT_RULES))
    query = got["decoder/decoder/self_attention/query/int8_scale"]
    assert query.sharding.spec == jax.sharding.PartitionSpec(None, None, "model")
    for name, leaf in flatten(small_of(params, config)).items():
        if leaf.dtype == np.int8 or name.endswith(INT8_SCALE):
            np.testing.assert_array_equal(got[name], leaf)
            assert got[name].dtype == leaf.dtype
    assert got["token_embedder/embedding"].dtype == np.int8
    assert got["encoder/encoder_norm/scale"].dtype == jnp.bfloat16


def test_a_token_outside_of_an_int8_table_is_nan_as_in_a_float_table():
    params = int8.with_int8_weights(params_of(TIED), TIED)
    ids = np.array([[-1, TIED.vocab_size, 3]], np.int32)
    rows = network_of(TIED).apply({"params": params}, ids, method=lambda network, ids: network.token_embedder(ids))
    assert np.isnan(rows[0, :2]).all() and np.isfinite(rows[0, 2]).all()


def test_training_with_int8_weights_is_refused():
    params = int8.with_int8_weights(params_of(UNTIED), UNTIED)
    inputs = ModelInputs(INPUTS, INPUTS)
    with pytest.raises(ValueError, match="int8 weights are for decoding; train with the float32 parameters"):
        network_of(UNTIED).apply({"params": params}, inputs, deterministic=False, rngs={"dropout": jax.random.key(0)})
