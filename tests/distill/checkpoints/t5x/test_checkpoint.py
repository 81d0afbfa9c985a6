"""T5X's checkpoints without T5X: files written here by TensorStore, msgpack and Orbax; and damaged or hostile files."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from distill.checkpoints import arrays, weights
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.weights import flatten
from distill.model.parameters import param_logical_axes, param_shapes
from distill.sharding import partitioning
from tests.distill.checkpoints.t5x.written import PLAIN, in_layout, refused, write_by_hand
from tests.distill.checkpoints.written import random_params, same


@pytest.mark.parametrize("compressor", [{"id": "gzip", "level": 1}, {"id": "zlib", "level": 1}, None])
@pytest.mark.parametrize("scan", [False, True])
def test_reads_native_files(compressor, scan, tmp_path):
    config = dataclasses.replace(PLAIN, scan_layers=scan)
    params = random_params(config)
    folder = write_by_hand(
        tmp_path / "checkpoint_11",
        flatten(params),
        compressor=compressor,
        inline=("encoder/encoder_norm/scale", "decoder/relpos_bias/rel_embedding"),
        driver="gcs" if scan else "gfile",
        dots=scan,
    )
    same(t5x_checkpoints.load_params(folder, config), params)
    same(t5x_checkpoints.load_params(folder / "checkpoint", config), params)
    same(t5x_checkpoints.load_params(tmp_path, config), params)  # the newest in the folder of a run
    other = dataclasses.replace(config, scan_layers=not scan)
    same(t5x_checkpoints.load_params(folder, other), in_layout(params, config, not scan))
    opened = t5x_checkpoints.open_checkpoint(folder)
    assert opened.step == 11 and opened.scanned == scan
    assert weights.infer_config(opened) == config
    index = t5x_checkpoints.open_checkpoint(folder).infos()
    assert index["token_embedder/embedding"] == arrays.TensorInfo((20, 8), "float32")
    assert set(index) == set(flatten(params))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_floats_become_float32(dtype, tmp_path):
    params = random_params(PLAIN)
    folder = write_by_hand(tmp_path / "c", flatten(params), compressor=None, dtype=dtype)
    expected = jax.tree.map(lambda a: a.astype(jax.numpy.dtype(dtype)).astype(np.float32), params)
    same(t5x_checkpoints.load_params(folder, PLAIN), expected)


def test_shardings_and_eight_devices(tmp_path):
    for scan in (False, True):
        config = dataclasses.replace(PLAIN, vocab_size=16, scan_layers=scan)
        params = random_params(config)
        t5x_checkpoints.save(params, config, tmp_path, int(scan))
        mesh = partitioning.MeshConfig(2, 2, 2).build()
        for wanted in (config, dataclasses.replace(config, scan_layers=not scan)):
            shardings = partitioning.param_shardings(
                param_shapes(wanted), param_logical_axes(wanted), mesh, partitioning.DEFAULT_RULES
            )
            loaded = t5x_checkpoints.load_params(tmp_path / f"checkpoint_{int(scan)}", wanted, shardings=shardings)
            same(jax.tree.map(np.asarray, loaded), in_layout(params, config, wanted.scan_layers))
            for leaf, sharding in zip(jax.tree.leaves(loaded), jax.tree.leaves(shardings)):
                assert leaf.sharding == sharding


def test_partial_reads_are_the_parts(tmp_path):
    for format in ("native", "orbax"):
        params = random_params(PLAIN)
        t5x_checkpoints.save(params, PLAIN, tmp_path / format, 0, format=format)
        checkpoint = t5x_checkpoints.open_checkpoint(tmp_path / format)
        for config in (PLAIN, dataclasses.replace(PLAIN, scan_layers=True)):
            loaded = weights.Weights(checkpoint, config)
            wanted = flatten(in_layout(params, PLAIN, config.scan_layers))
            for name in loaded:
                index = tuple(slice(size // 2, size) for size in wanted[name].shape)
                np.testing.assert_array_equal(loaded.read(name, index), wanted[name][index])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"vocab_size": 24},
            [
                "vocabulary 20 there, 24 here",
                "token_embedder/embedding: checkpoint [20, 8], configuration [24, 8]",
                "decoder/logits_dense/kernel: checkpoint [8, 20], configuration [8, 24]",
                "(2 differences",
            ],
        ),
        (
            {"embed_dim": 16},
            ["width 8 there, 16 here", "encoder/layers_1/mlp/wo/kernel: checkpoint [12, 8], configuration [12, 16]"],
        ),
        (
            {"num_decoder_layers": 2},
            [
                "3 decoder layers there, 2 here",
                "decoder/layers_2/mlp/wi_0/kernel: checkpoint [8, 12], configuration has none",
            ],
        ),
        (
            {"num_encoder_layers": 3},
            ["encoder/layers_2/attention/key/kernel: checkpoint has none, configuration [8, 8]"],
        ),
        ({"logits_via_embedding": True}, ["the checkpoint has a kernel for the logits", "(1 difference;"]),
        (
            {"mlp_activations": ("relu",)},
            ["mlp/wi/kernel: checkpoint has none", "mlp/wi_1/kernel: checkpoint [8, 12], configuration has none"],
        ),
    ],
)
def test_every_difference_is_listed_with_both_shapes(changes, expected, tmp_path):
    t5x_checkpoints.save(random_params(PLAIN), PLAIN, tmp_path, 0)
    for scan in (False, True):  # the file's names are used, whichever layout is wanted
        with pytest.raises(ValueError) as error:
            t5x_checkpoints.load_params(tmp_path, dataclasses.replace(PLAIN, scan_layers=scan, **changes))
        for text in expected:
            assert text in str(error.value)


def test_a_tied_checkpoint_for_an_untied_network(tmp_path):
    tied = dataclasses.replace(PLAIN, logits_via_embedding=True)
    t5x_checkpoints.save(random_params(tied), tied, tmp_path, 0)
    with pytest.raises(ValueError, match="logits come from the token table"):
        t5x_checkpoints.load_params(tmp_path, PLAIN)


def test_nothing_there(tmp_path):
    refused(tmp_path, "no T5X checkpoint")
    refused(tmp_path / "nowhere", "no T5X checkpoint")
    with pytest.raises(ValueError, match="gs://"):
        arrays.kvstore("s3://bucket/x")


def test_missing_and_truncated_chunks_are_no_zeros(native, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(native, folder)
    chunk = folder / "target.token_embedder.embedding" / "0.0"
    content = chunk.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:-8] + b"\0" * 8, b"garbage"):
        chunk.write_bytes(damaged)
        refused(folder, "cannot be read")
    chunk.unlink()
    refused(folder, "missing")
