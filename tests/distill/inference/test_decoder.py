"""Window lengths of decoding, bad settings, batches of like length, and whole copies of split parameters."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest
from flax import linen as nn

from distill.inference.decoder import DecodeConfig, Decoder, _prediction, bucket_lengths
from distill.model import int8
from distill.model.config import T5Config
from distill.model.parameters import init_params, param_logical_axes
from distill.precompile import costs
from distill.sharding import partitioning

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TINY = T5Config(
    vocab_size=12, embed_dim=4, num_heads=1, head_dim=4, mlp_dim=4, num_encoder_layers=1, num_decoder_layers=1
)


@pytest.mark.parametrize(
    "shortest, longest, expected",
    [
        (32, 1024, [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]),
        (32, 100, [32, 48, 64, 96, 100]),
        (32, 32, [32]),
        (64, 32, [32]),
        (1, 5, [1, 2, 3, 4, 5]),
        (1, 1, [1]),
        (5, 40, [5, 7, 10, 15, 20, 30, 40]),
    ],
)
def test_window_lengths(shortest, longest, expected):
    assert bucket_lengths(shortest, longest) == expected


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("shortest, longest", [(8, 1000), (32, 4096)])
def test_a_row_is_padded_by_at_most_one_step(shortest, longest, steps):
    lengths = bucket_lengths(shortest, longest, steps)
    assert all(longer <= (1 + 1 / steps) * shorter for shorter, longer in itertools.pairwise(lengths))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"method": "gready"}, r"DecodeConfig\.method .*did you mean 'greedy'"),
        ({"beam_rule": "t5"}, r"DecodeConfig\.beam_rule must be one of .*got 't5'"),
        ({"param_gather": "steps"}, r"DecodeConfig\.param_gather .*did you mean 'step'"),
        ({"weights": "int4"}, r"DecodeConfig\.weights must be one of .*got 'int4'"),
        ({"max_decode_len": 0}, r"DecodeConfig\.max_decode_len must be ≥ 1; got 0"),
        ({"batch_size": -1}, r"DecodeConfig\.batch_size must be ≥ 1; got -1"),
        ({"num_beams": 0}, r"DecodeConfig\.num_beams must be ≥ 1; got 0"),
        ({"bucket": 0}, r"DecodeConfig\.bucket must be ≥ 1; got 0"),
        ({"top_k": -1}, r"DecodeConfig\.top_k must be ≥ 0; got -1"),
        ({"method": "sample", "temperature": 1e-40}, r"DecodeConfig\.temperature must be ≥ 1e-30, .*; got 1e-40"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        DecodeConfig(**arguments)


def test_decoders_of_one_shape_share_their_program_under_the_same_rules():
    """A sweep's runs, and students of one shape, trace the decoding once."""
    mesh, config = partitioning.MeshConfig(1, 1, 1).build(jax.devices()[:1]), DecodeConfig(batch_size=2)
    one, same = (Decoder(dataclasses.replace(TINY), mesh, config) for _ in range(2))
    assert one._run() is same._run()
    assert Decoder(dataclasses.replace(TINY, mlp_dim=8), mesh, config)._run() is not one._run()
    assert Decoder(TINY, mesh, dataclasses.replace(config, method="sample"))._run() is not one._run()
    with nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        assert one._run() is same._run()
        within = one._run()
    assert within is not one._run()


def test_batches_hold_inputs_of_like_length():
    config = DecodeConfig(batch_size=2, max_input_len=8, bucket=2)
    decoder = Decoder(TINY, partitioning.MeshConfig(1, 1, 1).build(), config)
    lengths = [7, 1, 20, 2, 4]
    inputs = [np.asarray([5] * (length - 1) + [1], np.int32) for length in lengths]
    batches = list(decoder.batches(inputs))
    assert [indices for indices, _ in batches] == [[1, 3], [4, 0], [2]]
    assert [tokens.shape for _, tokens in batches] == [(2, 2), (2, 7), (2, 8)]
    assert batches[0][1].tolist() == [[1, 0], [5, 1]]
    # The longest is cut and keeps its EOS; the last batch is filled with empty rows.
    assert batches[2][1].tolist() == [[5, 5, 5, 5, 5, 5, 5, 1], [0] * 8]


def test_rows_are_a_multiple_of_the_shards_of_the_batch():
    decoder = Decoder(TINY, partitioning.MeshConfig(4, 1, 1).build(), DecodeConfig(batch_size=6, max_input_len=4))
    assert decoder.rows == 8
    batches = list(decoder.batches([np.asarray([1], np.int32)] * 9))
    assert [tokens.shape for _, tokens in batches] == [(8, 4), (8, 4)]


@pytest.mark.parametrize(
    "devices, inputs, rows", [(1, 1, 1), (1, 2, 2), (1, 3, 4), (1, 5, 6), (1, 13, 6), (4, 1, 4), (4, 5, 8), (4, 9, 8)]
)
def test_few_inputs_are_padded_to_few_rows(devices, inputs, rows):
    """One question took as long as a full batch."""
    mesh = partitioning.MeshConfig(devices, 1, 1).build(jax.devices()[:devices])
    decoder = Decoder(TINY, mesh, DecodeConfig(batch_size=6, max_input_len=4))
    batches = list(decoder.batches([np.asarray([1], np.int32)] * inputs))
    assert {tokens.shape for _, tokens in batches} == {(rows, 4)}
    assert sorted(index for indices, _ in batches for index in indices) == list(range(inputs))


def test_cpus_pad_inputs_to_four_lengths_per_power_of_two():
    decoder = Decoder(TINY, partitioning.MeshConfig(1, 1, 1).build(jax.devices()[:1]), DecodeConfig(batch_size=1))
    lengths = [tokens.shape[1] for _, tokens in decoder.batches([np.ones(n, np.int32) for n in (3, 33, 67, 1025)])]
    assert lengths == [32, 40, 80, 1024]


@pytest.mark.parametrize(
    "tokens, expected",
    [([5, 6, 1, 7], [5, 6]), ([1, 5, 5, 5], []), ([5, 6, 7, 8], [5, 6, 7, 8]), ([5, 0, 0, 0], [5]), ([], [])],
)
def test_a_prediction_ends_before_eos(tokens, expected):
    found = _prediction(np.asarray(tokens, np.int32), -1.5)
    assert found.tokens.tolist() == expected
    assert found.log_prob == -1.5


def test_decoder_keeps_order_and_cuts_long_inputs(arguments):
    params = init_params(arguments["model"], jax.random.key(0))
    decoder = Decoder(arguments["model"], arguments["mesh"].build(), DecodeConfig(4, 16, 4, bucket=8))
    inputs = [np.full(length, 5, np.int32) for length in (3, 40, 9, 16, 1, 12)]
    together = decoder(params, inputs)
    for got, one in zip(together, inputs):
        alone = decoder(params, [one])[0]
        np.testing.assert_array_equal(got.tokens, alone.tokens)
        assert got.log_prob == pytest.approx(alone.log_prob, abs=1e-4)


def test_whole_copies_decode_as_split_parameters_do(arguments):
    """And they are gathered before anything else; the program says so."""
    model = dataclasses.replace(arguments["model"], scan_layers=True)
    mesh = partitioning.MeshConfig(1, 4, 2).build()
    params = init_params(model, jax.random.key(0))
    params = jax.device_put(params, partitioning.param_shardings(params, param_logical_axes(model), mesh))
    inputs = [np.arange(2, 2 + length, dtype=np.int32) for length in (3, 9, 16, 5)]
    answers, gathered = {}, {}
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        for param_gather in ("layer", "step"):
            decoder = Decoder(model, mesh, DecodeConfig(4, 16, 4, bucket=16, param_gather=param_gather))
            answers[param_gather] = decoder(params, inputs)
            text = decoder.lower(params, 16)[0].compile().as_text()
            found = costs.analyse(text, dict(mesh.shape)).collectives
            first = [one.result_bytes for one in found if one.op_name == "jit(run)/sharding_constraint"]
            gathered[param_gather] = sum(first)
    for split, whole in zip(answers["layer"], answers["step"]):
        np.testing.assert_array_equal(split.tokens, whole.tokens)
        assert split.log_prob == pytest.approx(whole.log_prob, rel=1e-5)
    split = [leaf for leaf in jax.tree.leaves(params) if "fsdp" in leaf.sharding.spec]
    ways = [mesh.shape["model"] if "model" in leaf.sharding.spec else 1 for leaf in split]
    assert gathered == {"layer": 0, "step": sum(leaf.nbytes / n for leaf, n in zip(split, ways))}


def test_int8_weights_decode_the_same_on_one_device_and_sharded_or_gathered(arguments):
    model = dataclasses.replace(arguments["model"], scan_layers=True, logits_via_embedding=True)
    params = init_params(model, jax.random.key(0))
    inputs = [np.arange(2, 2 + length, dtype=np.int32) for length in (3, 9, 16, 5)]
    answers = {}
    for shape, param_gather in (((1, 1, 1), "layer"), ((1, 4, 2), "layer"), ((1, 4, 2), "step")):
        mesh = partitioning.MeshConfig(*shape).build(jax.devices()[: math.prod(shape)])
        with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
            ready = int8.placed(params, model, mesh, partitioning.DEFAULT_RULES)
            config = DecodeConfig(4, 16, 4, bucket=16, param_gather=param_gather, weights="int8")
            answers[shape, param_gather] = Decoder(model, mesh, config)(ready, inputs)
    wanted, *others = answers.values()
    for found in others:
        for one, other in zip(found, wanted):
            np.testing.assert_array_equal(one.tokens, other.tokens)
            assert one.log_prob == pytest.approx(other.log_prob, rel=1e-4)


def test_settings_of_another_method_are_unused():
    assert [warning.partition(":")[0] for warning in DecodeConfig(temperature=0.5, num_beams=2).unused()] == [
        "DecodeConfig.temperature=0.5 changes nothing",
        "DecodeConfig.num_beams=2 changes nothing",
    ]
    assert DecodeConfig(method="sample", temperature=0.5, top_k=3).unused() == []
    assert DecodeConfig(method="beam", num_beams=2, beam_rule="t5x").unused() == []


def test_settings_in_effect_are_those_of_the_method():
    assert DecodeConfig(answers="choose").in_effect()["choices"] == "those of each row"
    assert DecodeConfig(8, 16).in_effect() == {
        "answers": "generate", "method": "greedy", "max_decode_len": 8, "max_input_len": 16, "weights": "compute",
    }  # fmt: skip
    assert {"temperature", "top_k", "seed", "batch_size"} <= DecodeConfig(method="sample").in_effect().keys()
    assert DecodeConfig(method="beam").in_effect().keys() >= {"num_beams", "length_penalty", "beam_rule"}
    assert DecodeConfig(8, 16, answers="choose", choices=("a", "b"), method="beam").in_effect() == {
        "answers": "choose", "choices": ("a", "b"), "normalize_by_target_length": False, "max_input_len": 16,
    }  # fmt: skip


def test_a_setting_of_choices_is_unused_where_answers_are_generated():
    (warning,) = DecodeConfig(normalize_by_target_length=True).unused()
    assert warning.startswith("DecodeConfig.normalize_by_target_length=True changes nothing: it ranks choices")
    assert DecodeConfig(normalize_by_target_length=True).unused(chooses=True) == []
    assert DecodeConfig(normalize_by_target_length=True, answers="choose").unused() == []
    assert DecodeConfig().unused() == []
