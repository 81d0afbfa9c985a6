"""The network against PyTorch's, and against itself in other configurations."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from distill.checkpoints import huggingface
from distill.checkpoints.huggingface import names
from distill.model import attention, config, parameters
from distill.model.network import ModelInputs, T5Config, Transformer
from distill.sharding import partitioning
from distill.sharding.embedding import LOOKUP_BATCH
from tests.distill import hf_models
from tests.distill.model.small_network import SMALL, apply_method, gradients_of, logits_of, params_of, tokens_of


@pytest.mark.parametrize("family", hf_models.FAMILIES)
def test_logits_equal_pytorch(family, tmp_path):
    model = hf_models.build(family)
    config, params = huggingface.load_pretrained(hf_models.save(model, family, tmp_path))
    inputs, targets = tokens_of(3, 40, 1, lengths=[40, 17, 1]), tokens_of(3, 30, 2, lengths=[30, 9, 30])
    targets[:, 0] = 0
    with torch.no_grad():
        wanted = model(
            input_ids=torch.tensor(inputs, dtype=torch.long),
            attention_mask=torch.tensor(inputs != 0, dtype=torch.long),
            decoder_input_ids=torch.tensor(targets, dtype=torch.long),
        ).logits.numpy()
    got = logits_of(config, params, inputs, targets)
    assert got.dtype == jnp.float32
    assert np.std(wanted) > 0.1
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (16, 20), (64, 1000)])
def test_relative_position_buckets_equal_pytorch(bidirectional, buckets, longest):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-1500, 1500, dtype=np.int32)
    wanted = T5Attention._relative_position_bucket(
        torch.tensor(distance, dtype=torch.long), bidirectional, buckets, longest
    ).numpy()
    bucket = functools.partial(
        attention.relative_position_bucket, bidirectional=bidirectional, num_buckets=buckets, max_distance=longest
    )
    got = jax.jit(bucket)(distance)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("lengths", [(1, 1), (5, 5), (7, 3), (3, 200), (150, 150)])
def test_relative_bias_is_the_table_at_the_bucket(lengths):
    module = attention.RelativeBias(num_heads=3, num_buckets=32, max_distance=128, bidirectional=True)
    table = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)

    @jax.jit
    def compute(table):
        apply = functools.partial(module.apply, {"params": {"rel_embedding": table}})
        distance = jnp.arange(lengths[1], dtype=jnp.int32)[None, :] - jnp.arange(lengths[0], dtype=jnp.int32)[:, None]
        bias = apply(*lengths)
        return (
            bias.full,
            bias.by_shard,
            apply(jnp.int32(lengths[0] - 1), lengths[1], method=attention.RelativeBias.at),
            attention.relative_position_bucket(distance, bidirectional=True, num_buckets=32, max_distance=128),
        )

    bias, by_shard, row, buckets = (np.asarray(x) for x in compute(table))
    np.testing.assert_allclose(bias[0], table[:, buckets], rtol=1e-6)
    distances = np.arange(lengths[1])[None, :] - np.arange(lengths[0])[:, None]
    np.testing.assert_array_equal(by_shard[:, :, distances + lengths[0] - 1], bias)
    np.testing.assert_allclose(row[0, :, 0], bias[0, :, -1], rtol=1e-6)


@pytest.mark.parametrize("per_layer", [False, True])
def test_packed_rows_equal_rows_alone(per_layer):
    config = dataclasses.replace(SMALL, relative_bias_per_layer=per_layer)
    params = params_of(config)
    input_lengths, target_lengths = [5, 9, 3], [4, 2, 6]
    inputs, targets = tokens_of(3, 9, 0, lengths=input_lengths), tokens_of(3, 6, 1, lengths=target_lengths)
    targets[:, 0] = 0
    apart = logits_of(config, params, inputs, targets)
    alone = [apart[row, :length] for row, length in enumerate(target_lengths)]

    def packed(rows, width):
        tokens, segments = np.zeros((1, width), np.int32), np.zeros((1, width), np.int32)
        at = 0
        for number, row in enumerate(rows, start=1):
            tokens[0, at : at + len(row)] = row
            segments[0, at : at + len(row)] = number
            at += len(row)
        return tokens, segments

    encoder, encoder_segments = packed([row[:n] for row, n in zip(inputs, input_lengths)], 20)
    decoder, decoder_segments = packed([row[:n] for row, n in zip(targets, target_lengths)], 15)
    together = logits_of(config, params, encoder, decoder, encoder_segments, decoder_segments)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together[0, : sum(target_lengths)], np.concatenate(alone), rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing():
    params = params_of(SMALL)
    inputs, targets = tokens_of(2, 6, 0), tokens_of(2, 5, 1)
    short = logits_of(SMALL, params, inputs, targets)
    padded = logits_of(SMALL, params, np.pad(inputs, ((0, 0), (0, 7))), np.pad(targets, ((0, 0), (0, 3))))
    np.testing.assert_allclose(padded[:, :5], short, rtol=1e-5, atol=1e-5)
    all_padding = logits_of(SMALL, params, np.zeros_like(inputs), targets)
    assert np.isfinite(all_padding).all()


def test_later_targets_change_nothing_earlier():
    params = params_of(SMALL)
    inputs, targets = tokens_of(2, 6, 0), tokens_of(2, 8, 1)
    changed = targets.copy()
    changed[:, 5] = (changed[:, 5] + 1) % hf_models.VOCAB
    before, after = logits_of(SMALL, params, inputs, targets), logits_of(SMALL, params, inputs, changed)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3


def test_bfloat16_is_close_and_parameters_stay_float32():
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    params = params_of(SMALL)
    inputs, targets = tokens_of(2, 9, 0), tokens_of(2, 8, 1)
    precise, rough = logits_of(SMALL, params, inputs, targets), logits_of(config, params, inputs, targets)
    assert rough.dtype == jnp.float32
    assert 0.0 < np.abs(rough - precise).mean() < 0.05 * np.abs(precise).mean()
    hidden = jax.eval_shape(
        lambda p: Transformer(config).apply({"params": p}, ModelInputs(inputs, targets), method=Transformer.hidden),
        params,
    )
    assert hidden.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters.param_shapes(config))} == {jnp.dtype("float32")}
    gradients = jax.eval_shape(lambda: gradients_of(config))[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("tied", [False, True])
def test_output_kernel_turns_hidden_into_logits(tied):
    config = dataclasses.replace(SMALL, logits_via_embedding=tied)
    params = params_of(config)
    inputs, targets = tokens_of(2, 9, 0), tokens_of(2, 8, 1)
    hidden = np.asarray(apply_method(config, Transformer.hidden, params, inputs, targets))
    kernel = np.asarray(parameters.output_kernel(params, config))
    assert kernel.shape == (config.embed_dim, config.vocab_size)
    np.testing.assert_allclose(hidden @ kernel, logits_of(config, params, inputs, targets), rtol=1e-5, atol=1e-5)


def test_attention_dropout_keeps_the_mean():
    module = attention.Attention(num_heads=2, head_dim=4, embed_dim=8, dropout_rate=0.4, dtype=jnp.dtype("float32"))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 8)), jnp.float32)
    everywhere = attention.Segments(jnp.ones((1, 5), jnp.int32), jnp.ones((1, 5), jnp.int32))

    @jax.jit
    def draw_many():
        variables = nn.unbox(module.init(jax.random.key(1), x, x, everywhere))

        def draw(key):
            return module.apply(variables, x, x, everywhere, deterministic=False, rngs={"dropout": key})

        keys = jax.random.split(jax.random.key(2, impl="unsafe_rbg"), 4000)
        return jax.vmap(draw)(keys), module.apply(variables, x, x, everywhere)

    draws, undropped = (np.asarray(out) for out in draw_many())
    np.testing.assert_allclose(draws.mean(axis=0), undropped, atol=0.06)
    assert draws.std(axis=0).min() > 0.05


def test_an_id_beyond_the_vocabulary_yields_nan():
    inputs = tokens_of(1, 4, 0)
    inputs[0, 2] = hf_models.VOCAB
    assert np.isnan(logits_of(SMALL, params_of(SMALL), inputs, tokens_of(1, 3, 1))).all()


def test_initial_scales():
    config = dataclasses.replace(SMALL, vocab_size=512, embed_dim=256, head_dim=64, mlp_dim=512, num_decoder_layers=2)
    key = jax.random.key(0, impl="unsafe_rbg")
    params = jax.device_get(jax.jit(parameters.init_params, static_argnums=0)(config, key))
    layer = params["decoder"]["layers_1"]
    joined = config.num_heads * config.head_dim
    wanted = {
        "table": (params["token_embedder"]["embedding"], 1.0),
        "query": (layer["self_attention"]["query"]["kernel"], (config.embed_dim * config.head_dim) ** -0.5),
        "key": (layer["self_attention"]["key"]["kernel"], config.embed_dim**-0.5),
        "value": (layer["encoder_decoder_attention"]["value"]["kernel"], config.embed_dim**-0.5),
        "out": (layer["encoder_decoder_attention"]["out"]["kernel"], joined**-0.5),
        "wi": (layer["mlp"]["wi_1"]["kernel"], config.embed_dim**-0.5),
        "wo": (layer["mlp"]["wo"]["kernel"], config.mlp_dim**-0.5),
        "logits": (params["decoder"]["logits_dense"]["kernel"], config.embed_dim**-0.5),
        "bias": (params["encoder"]["relpos_bias"]["rel_embedding"], (0.5 * (config.num_heads + 32)) ** -0.5),
    }
    for name, (value, std) in wanted.items():
        assert np.std(value) == pytest.approx(std, rel=0.08 if name == "bias" else 0.02), name
    assert (layer["pre_mlp_layer_norm"]["scale"] == 1.0).all()
    # Layers of a scan are drawn independently, with the same scales.
    scanned = dataclasses.replace(config, embed_dim=64, scan_layers=True)
    scanned = jax.device_get(jax.jit(parameters.init_params, static_argnums=0)(scanned, key))
    stacked = scanned["decoder"]["decoder"]["mlp"]["wo"]["kernel"]
    np.testing.assert_allclose(np.std(stacked, axis=(0, 2)), config.mlp_dim**-0.5, rtol=0.02)
    assert np.abs(np.corrcoef(stacked[:, 0].ravel(), stacked[:, 1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("scan", [False, True])
def test_every_parameter_has_an_axis_name_for_each_dimension(scan):
    config = dataclasses.replace(SMALL, scan_layers=scan, relative_bias_per_layer=True)
    shapes, axes = parameters.param_shapes(config), parameters.param_logical_axes(config)
    known = {name for name, _ in partitioning.DEFAULT_RULES}

    def check(shape, names):
        assert len(names) == len(shape.shape)
        assert set(names) <= known

    jax.tree.map(check, shapes, axes)
    if scan:
        kernel = axes["decoder"]["decoder"]["encoder_decoder_attention"]["out"]["kernel"]
        assert tuple(kernel) == ("joined_kv", "layers", "embed")


@pytest.mark.parametrize("mesh", [(2, 1, 4), (1, 8, 1), (2, 2, 2)])
def test_sharded_equals_whole(mesh):
    config = dataclasses.replace(SMALL, num_heads=6, scan_layers=mesh[1] == 2)
    params = params_of(config)
    inputs, targets = tokens_of(8, 8, 0), tokens_of(8, 4, 1)
    wanted = logits_of(config, params, inputs, targets)
    devices = partitioning.MeshConfig(*mesh).build()
    placed = jax.device_put(
        params, partitioning.param_shardings(params, parameters.param_logical_axes(config), devices)
    )
    rows = partitioning.batch_sharding(devices)
    rules = [(LOOKUP_BATCH, "data"), *partitioning.DEFAULT_RULES]
    with jax.set_mesh(devices), nn.logical_axis_rules(rules):
        got = jax.jit(lambda p, x, y: Transformer(config).apply({"params": p}, ModelInputs(x, y)))(
            placed, jax.device_put(inputs, rows), jax.device_put(targets, rows)
        )
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_positions_that_devices_do_not_divide_are_replicated(caplog):
    devices = partitioning.MeshConfig(1, 1, 4).build(jax.devices()[:4])
    rules = partitioning.sequence_parallel(partitioning.DEFAULT_RULES)
    with jax.set_mesh(devices), nn.logical_axis_rules(list(rules)):
        held = {
            length: jax.jit(attention.residual)(jnp.zeros((2, length, 8))).sharding.shard_shape((2, length, 8))[1]
            for length in (1, 8, 179)
        }
    assert held == {1: 1, 8: 2, 179: 179}
    assert [record.message for record in caplog.records] == [
        "sequence parallelism is off for 179 positions: 4 devices do not divide them"
    ]


@pytest.mark.parametrize("scan", [False, True])
def test_gradients_of_the_encoding_are_summed_over_layers_before_one_all_reduce(scan):
    config = dataclasses.replace(SMALL, embed_dim=40, num_decoder_layers=3, scan_layers=scan, dropout_rate=0.0)
    devices = partitioning.MeshConfig(1, 1, 4).build()
    params = params_of(config)
    placed = jax.device_put(
        params, partitioning.param_shardings(params, parameters.param_logical_axes(config), devices)
    )
    encoded = jnp.asarray(np.random.default_rng(0).normal(size=(2, 24, 40)), jnp.float32)
    inputs, targets = tokens_of(2, 24, 0), tokens_of(2, 4, 1)

    def loss(params, encoded):
        decode = functools.partial(Transformer(config).apply, {"params": params}, method="decode_hidden")
        return jnp.sum(jnp.square(decode(encoded, ModelInputs(inputs, targets), deterministic=False)))

    wanted = jax.jit(jax.grad(loss, argnums=1))(params, encoded)
    with jax.set_mesh(devices), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        compiled = jax.jit(jax.grad(loss, argnums=1)).lower(placed, encoded).compile()
    np.testing.assert_allclose(compiled(placed, encoded), wanted, rtol=1e-4, atol=1e-4)
    # The only all-reduce of an array of the encoding's shape is the last one.
    program = compiled.as_text()
    summed = re.findall(r"= f32\[(?:\d+,)*2,24,40\]\S* all-reduce\(.*", program)
    assert len(summed) == 1
    assert "while/body" not in summed[0]


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("kernel", ["xla", "pallas"])
def test_training_without_dropout_equals_inference(scan, kernel):
    # Heads and lengths that the kernel supports.
    config = dataclasses.replace(SMALL, head_dim=32, scan_layers=scan, dropout_rate=0.0, attention=kernel)
    inputs, targets = (tokens_of(1, 128, seed) for seed in (0, 1))
    params = params_of(config)

    def loss(params, deterministic):
        logits = Transformer(config).apply(
            {"params": params}, ModelInputs(inputs, targets), deterministic=deterministic
        )
        return jnp.sum(jnp.square(logits)), logits

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, answering), gradients = run(params, True)
    (_, training), of_training = run(params, False)
    np.testing.assert_allclose(training, answering, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda have, want: np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4 * np.abs(want).max()),
        of_training,
        gradients,
    )


@pytest.mark.parametrize(("training", "platform"), [(False, "tpu"), (True, "tpu"), (True, "gpu")])
def test_kernels_are_stacked_only_for_training_on_tpus(training, platform, monkeypatch):
    monkeypatch.setattr(partitioning, "platform", lambda: platform)
    params, inputs, targets = params_of(SMALL), tokens_of(2, 9, 0), tokens_of(2, 6, 1)

    def logits(params):
        rngs = {"dropout": jax.random.key(0)}
        return Transformer(SMALL).apply(
            {"params": params}, ModelInputs(inputs, targets), deterministic=not training, rngs=rngs
        )

    stacked = f"[2,{SMALL.embed_dim},{SMALL.mlp_dim}]"  # the kernels of a gated unit
    assert (stacked in str(jax.make_jaxpr(logits)(params))) == (training and platform == "tpu")


@pytest.mark.parametrize("mesh", [(2, 2, 2), (2, 4, 1), (1, 8, 1)])
def test_a_lookup_does_not_replicate_the_batch(mesh):
    """For a table sharded over an axis of the batch, the compiler's own choice gathers all rows on all devices."""
    devices = partitioning.MeshConfig(*mesh).build()
    rules = [(LOOKUP_BATCH, "data"), *partitioning.DEFAULT_RULES]
    module = attention.TokenEmbedder(64, 24, jnp.dtype("float32"))
    spec = partitioning.spec_for(("vocab", "embed"), (64, 24), devices, rules)
    table = jax.ShapeDtypeStruct((64, 24), jnp.float32, sharding=jax.sharding.NamedSharding(devices, spec))
    tokens = jax.ShapeDtypeStruct((16, 10), jnp.int32, sharding=partitioning.batch_sharding(devices))

    def loss(table, tokens):
        return jnp.sum(jnp.square(module.apply({"params": {"embedding": table}}, tokens)))

    with jax.set_mesh(devices), nn.logical_axis_rules(rules):
        compiled = jax.jit(jax.grad(loss), out_shardings=table.sharding).lower(table, tokens).compile().as_text()
    gathered = re.findall(r"= f32\[([\d,]*)\]\S* all-gather\(", compiled)
    assert not gathered
    # The all-reduce of the gradient moves one device's shard of the table, and no more.
    held = table.sharding.shard_shape(table.shape)
    reduced = {shape for shape in re.findall(r"= f32\[([\d,]*)\]\S* all-reduce\(", compiled) if shape.count(",") == 1}
    assert reduced <= {",".join(map(str, held))}


# Counts of the released checkpoints.
RELEASED = {
    "t5-small": (
        60_506_624,
        (32128, 512, 8, 64, 2048, 6, 6),
        {"mlp_activations": ("relu",), "logits_via_embedding": True},
    ),
    "t5-v1_1-small": (76_961_152, (32128, 512, 6, 64, 1024, 8, 8), {}),
    "flan-t5-base": (247_577_856, (32128, 768, 12, 64, 2048, 12, 12), {}),
    "flan-t5-xxl": (11_135_332_352, (32128, 4096, 64, 64, 10240, 24, 24), {"scan_layers": True}),
    "mt5-small": (300_176_768, (250112, 512, 6, 64, 1024, 8, 8), {}),
    "byt5-small": (299_637_760, (384, 1472, 6, 64, 3584, 12, 4), {}),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_sizes(name):
    count, dimensions, more = RELEASED[name]
    fields = [field.name for field in dataclasses.fields(T5Config)][: len(dimensions)]
    assert parameters.param_count(T5Config(**dict(zip(fields, dimensions)), **more)) == count


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_names_cover_the_whole_tree(per_layer, tied):
    config = dataclasses.replace(
        SMALL,
        relative_bias_per_layer=per_layer,
        logits_via_embedding=tied,
        num_decoder_layers=3,
        mlp_activations=("relu",),
    )
    flat, _ = jax.tree_util.tree_flatten_with_path(parameters.param_shapes(config))
    tree = {tuple(k.key for k in path): leaf.shape for path, leaf in flat}
    named = {e.path: e.shape[::-1] if e.transposed else e.shape for e in names.entries(config)}
    assert named == tree


def test_segment_ids_come_in_pairs():
    tokens = jnp.ones((1, 3), jnp.int32)
    with pytest.raises(ValueError, match="encoder_segment_ids given, decoder_segment_ids absent"):
        apply_method.eval_shape(SMALL, Transformer.__call__, params_of(SMALL), tokens, tokens, tokens)


def test_a_scanned_network_does_not_decode_step_by_step():
    params, config = parameters.stack_layers(params_of(SMALL), SMALL)
    with pytest.raises(ValueError, match="unstack_layers"):
        Transformer(config).apply({"params": params}, jnp.zeros((1, 3, 32)), method=Transformer.cross_key_values)


def test_activation_names_agree():
    assert set(config.ACTIVATIONS) == set(attention.ACTIVATIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "T5Config.num_heads must be an integer ≥ 1; got 0"),
        ({"embed_dim": 512.0}, "T5Config.embed_dim must be an integer ≥ 1; got 512.0"),
        ({"num_encoder_layers": True}, "num_encoder_layers"),
        ({"mlp_activations": ()}, "at least one activation"),
        ({"mlp_activations": ("gellu", "linear")}, "did you mean 'gelu'"),
        ({"mlp_activations": "relu"}, "mlp_activations must be"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"dtype": "bfloat61"}, "did you mean 'bfloat16'"),
        ({"remat_policy": "minmal"}, "did you mean 'minimal'"),
        ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\)"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        ({"relative_attention_num_buckets": 30}, "multiple of 4; got 30"),
        ({"relative_attention_max_distance": 16}, "must exceed half of the 32 buckets"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_lists_become_tuples():
    config = dataclasses.replace(SMALL, mlp_activations=["gelu", "linear"])
    assert config == SMALL
    assert hash(config) == hash(SMALL)
