"""Native and Orbax checkpoints as they are written: exact, in both layouts, in chunks, and readable by Orbax."""

import dataclasses

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from distill.checkpoints import arrays, streamed_orbax, weights
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.weights import flatten
from distill.model.parameters import init_params
from tests.distill.checkpoints.t5x.written import PLAIN, in_layout
from tests.distill.checkpoints.written import random_params, same


@pytest.mark.parametrize("format", ["native", "orbax"])
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("per_layer", [False, True])
def test_round_trips_are_exact(format, scan, per_layer, tmp_path):
    config = dataclasses.replace(PLAIN, scan_layers=scan, relative_bias_per_layer=per_layer)
    params = random_params(config)
    written = t5x_checkpoints.save(params, config, tmp_path, 3, format=format)
    assert written.name == "checkpoint_3"
    for wanted in (scan, not scan):
        loaded = t5x_checkpoints.load_params(written, dataclasses.replace(config, scan_layers=wanted))
        same(loaded, in_layout(params, config, wanted))
    assert weights.infer_config(t5x_checkpoints.open_checkpoint(tmp_path)) == config


@pytest.mark.parametrize("format", ["native", "orbax"])
@pytest.mark.parametrize("scan", [False, True])
def test_scalable_t5_splits_heads_and_has_a_bias_in_every_layer(format, scan, tmp_path):
    config = dataclasses.replace(PLAIN, scan_layers=scan)
    params = random_params(config)
    t5x_checkpoints.save(params, config, tmp_path, 0, format=format, layout="scalable_t5")
    shapes = {name: info.shape for name, info in t5x_checkpoints.open_checkpoint(tmp_path).infos().items()}
    inner = "decoder/decoder" if scan else "decoder/layers_2"
    layers = (3,) if scan else ()
    assert shapes[f"{inner}/self_attention/query/kernel"] == (8, *layers, 2, 4)
    assert shapes[f"{inner}/self_attention/out/kernel"] == (2, *layers, 4, 8)
    assert shapes[f"{inner}/relpos_bias/rel_embedding"] == (2, *layers, 32)
    assert "decoder/relpos_bias/rel_embedding" not in shapes
    per_layer = dataclasses.replace(config, relative_bias_per_layer=True)
    loaded = flatten(t5x_checkpoints.load_params(tmp_path, dataclasses.replace(per_layer, scan_layers=False)))
    plain = flatten(in_layout(params, config, False))
    for name, array in loaded.items():
        ours = name if name in plain else f"{name.split('/')[0]}/relpos_bias/rel_embedding"
        np.testing.assert_array_equal(array, plain[ours])


def test_arrays_are_cut_into_chunks_that_cover_them(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 64)
    monkeypatch.setattr(streamed_orbax, "CHUNK_BYTES", 64)
    config = dataclasses.replace(PLAIN, scan_layers=True)
    params = random_params(config)
    t5x_checkpoints.save(params, config, tmp_path, 0, compression="none")
    same(t5x_checkpoints.load_params(tmp_path, config), params)
    t5x_checkpoints.save(params, config, tmp_path / "orbax", 0, format="orbax")
    same(t5x_checkpoints.load_params(tmp_path / "orbax", config), params)
    assert len(list((tmp_path / "checkpoint_0" / "target.token_embedder.embedding").iterdir())) > 10


def test_jax_arrays_are_saved_and_half_precision_becomes_float32(tmp_path):
    params = init_params(PLAIN, jax.random.key(0))
    half = jax.tree.map(lambda a: a.astype(jax.numpy.bfloat16), params)
    t5x_checkpoints.save(half, PLAIN, tmp_path, 0)
    same(t5x_checkpoints.load_params(tmp_path, PLAIN), jax.tree.map(lambda a: np.asarray(a, np.float32), half))


def test_what_cannot_be_saved(tmp_path):
    params = random_params(PLAIN)
    with pytest.raises(ValueError, match=r"token_embedder/embedding.*configuration"):
        t5x_checkpoints.save(params, dataclasses.replace(PLAIN, vocab_size=21), tmp_path, 0)
    for arguments, message in (
        ({"format": "zip"}, "format must be"),
        ({"layout": "t5x"}, "layout must be"),
        ({"compression": "xz"}, "compression must be"),
    ):
        with pytest.raises(ValueError, match=message):
            t5x_checkpoints.save(params, PLAIN, tmp_path, 0, **arguments)
    with pytest.raises(ValueError, match="step must be"):
        t5x_checkpoints.save(params, PLAIN, tmp_path, -1)
    t5x_checkpoints.save(params, PLAIN, tmp_path, 0)
    with pytest.raises(ValueError, match="exists already"):
        t5x_checkpoints.save(params, PLAIN, tmp_path, 0)


def test_orbax_itself_reads_and_writes_the_same_files(tmp_path):
    params = random_params(PLAIN)
    t5x_checkpoints.save(params, PLAIN, tmp_path / "ours", 5, format="orbax")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        state = reader.restore(
            tmp_path / "ours" / "checkpoint_5" / "state",
            restore_args=None,
        )
        same(state["target"], params)
        assert state["state"]["step"] == 5
    for options in ({}, {"use_zarr3": True}, {"use_ocdbt": False}):
        folder = tmp_path / f"theirs{len(options)}{next(iter(options), '')}" / "checkpoint_6" / "state"
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as writer:
            writer.save(folder, {"target": params, "state": {"step": np.int32(6)}})
        same(t5x_checkpoints.load_params(folder.parent, PLAIN), params)
        assert t5x_checkpoints.open_checkpoint(folder.parent).step == 6
