"""T5X's checkpoints against T5X itself: we read those that it writes, and it restores those that we write."""

import dataclasses
import json
import pathlib
import shutil

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5x
import t5x.adafactor
import t5x.checkpoints
import t5x.partitioning
import t5x.train_state
from t5x.examples.scalable_t5 import network as scalable
from t5x.examples.t5 import network as plain

from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints import weights
from distill.model.network import ModelInputs, T5Config, Transformer
from distill.model.parameters import param_shapes
from tests.t5x import rounding

TESTDATA = pathlib.Path(t5x.checkpoints.__file__).parent / "testdata"
DIMS = {"num_heads": 8, "head_dim": 4, "mlp_dim": 24, "num_encoder_layers": 2, "num_decoder_layers": 3}
OURS = T5Config(vocab_size=48, embed_dim=16, **DIMS)
# T5X's two networks: examples/t5, and scalable_t5 stacked and not, whose every layer has a position bias.
NETWORKS = {
    "t5": (plain, {}, OURS),
    "scalable": (scalable, {"scan_layers": False}, dataclasses.replace(OURS, relative_bias_per_layer=True)),
    "scanned": (
        scalable,
        {"scan_layers": True},
        dataclasses.replace(OURS, relative_bias_per_layer=True, scan_layers=True),
    ),
}
INPUTS = np.array([[5, 7, 9, 1, 0], [3, 1, 0, 0, 0]], np.int32)
TARGETS = np.array([[4, 6, 1], [8, 1, 0]], np.int32)
SHIFTED = np.array([[0, 4, 6], [0, 8, 1]], np.int32)
ROUNDINGS = rounding.logits_roundings(OURS, (INPUTS.shape[1], TARGETS.shape[1]))


def their_network(kind):
    module, settings, _ = NETWORKS[kind]
    config = module.T5Config(
        vocab_size=48, emb_dim=16, dtype="float32", dropout_rate=0.0, mlp_activations=("gelu", "linear"),
        logits_via_embedding=False, **DIMS, **settings,
    )  # fmt: skip
    return module.Transformer(config)


def their_state(network, *, train, seed=0):
    variables = flax.core.freeze(network.init(jax.random.key(seed), INPUTS, SHIFTED, TARGETS, enable_dropout=False))
    if not train:
        return t5x.train_state.InferenceState.create(variables)
    rules = t5x.adafactor.standard_logical_factor_rules()
    optimizer = t5x.adafactor.Adafactor(1e-3, step_offset=0, logical_factor_rules=rules)
    return t5x.train_state.FlaxOptimTrainState.create(optimizer, variables)


def checkpointer(format, state, folder):
    partitioner = t5x.partitioning.PjitPartitioner(num_partitions=1)
    if format == "native":
        return t5x.checkpoints.Checkpointer(state, partitioner, str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    return t5x.checkpoints.OrbaxCheckpointManagerInterface(str(folder), state, partitioner)


def their_logits(network, params):
    return network.apply({"params": params}, INPUTS, SHIFTED, TARGETS, enable_dropout=False)


def random_params(config):
    rng = np.random.default_rng(0)
    # Small, because queries are not scaled down, and attention logits in the hundreds would magnify rounding errors.
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape, scale=0.3).astype(np.float32), param_shapes(config))


@pytest.mark.parametrize("format", ["native", "orbax"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_checkpoints_of_t5x_give_its_logits(kind, format, tmp_path):
    network, config = their_network(kind), NETWORKS[kind][2]
    state = their_state(network, train=True).replace_step(jnp.array(7))
    saver = checkpointer(format, state, tmp_path / "run")
    saver.save(state)
    if format == "orbax":
        saver.wait_until_finished()
        saver.close()
    opened = t5x_checkpoints.open_checkpoint(tmp_path / "run")
    assert opened.step == 7
    assert weights.infer_config(opened) == config
    expected = np.asarray(their_logits(network, state.params))
    for scan in (False, True):
        wanted = dataclasses.replace(config, scan_layers=scan)
        params = t5x_checkpoints.load_params(tmp_path / "run" / "checkpoint_7", wanted)
        logits = Transformer(wanted).apply({"params": params}, ModelInputs(INPUTS, SHIFTED))
        used = TARGETS > 0  # T5X masks padded targets, too
        rounding.assert_close(np.asarray(logits)[used], expected[used], ROUNDINGS)


@pytest.mark.parametrize("format", ["native", "orbax"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_t5x_restores_our_checkpoints(kind, format, tmp_path):
    network, config = their_network(kind), NETWORKS[kind][2]
    params = random_params(config)
    theirs = "t5" if kind == "t5" else "scalable_t5"
    folder = t5x_checkpoints.save(params, config, tmp_path / "run", 5, format=format, layout=theirs)
    logits = np.asarray(Transformer(config).apply({"params": params}, ModelInputs(INPUTS, SHIFTED)))
    used = TARGETS > 0
    for train in (False, True):
        state = their_state(network, train=train, seed=1)
        # There is no optimizer state in the file: T5X's fallback_to_scratch makes one.
        fallback = state.state_dict() if train else None
        restored = checkpointer(format, state, tmp_path / "run").restore(path=str(folder), fallback_state=fallback)
        assert int(restored.step) == 5
        got = np.asarray(their_logits(network, restored.params))
        rounding.assert_close(got[used], logits[used], ROUNDINGS)


def test_a_shared_bias_is_written_to_every_layer_of_scalable_t5(tmp_path):
    params = random_params(OURS)
    folder = t5x_checkpoints.save(params, OURS, tmp_path / "run", 1, layout="scalable_t5")
    network = their_network("scalable")
    restored = checkpointer("native", their_state(network, train=False), tmp_path / "run").restore(path=str(folder))
    logits = np.asarray(Transformer(OURS).apply({"params": params}, ModelInputs(INPUTS, SHIFTED)))
    used = TARGETS > 0
    got = np.asarray(their_logits(network, restored.params))
    rounding.assert_close(got[used], logits[used], ROUNDINGS)


def test_t5xs_own_native_checkpoint():
    folder = TESTDATA / "tiny_t5" / "checkpoint_1"
    if not folder.is_dir():
        pytest.skip(f"this installation of T5X has no {folder.name} in its testdata")
    tensors = t5x_checkpoints.all_tensors(folder)
    assert {name: tensor.info for name, tensor in tensors.items()} == {
        "state/param_states/bias": ((5,), "float32"),
        "state/param_states/kernel": ((10, 5), "float64"),
        "state/param_states/step": ((), "int32"),
        "state/step": ((), "int32"),
    }
    np.testing.assert_array_equal(tensors["state/param_states/bias"].read(), np.ones(5, np.float32))
    assert tensors["state/step"].read() == tensors["state/param_states/step"].read() == 1
    kernel = tensors["state/param_states/kernel"].read()
    assert kernel.shape == (10, 5) and (kernel >= 0).all() and (kernel < 1).all()
    with pytest.raises(ValueError, match="holds no parameters"):
        t5x_checkpoints.open_checkpoint(folder)


def test_t5xs_own_orbax_checkpoint(tmp_path):
    source = TESTDATA / "tiny_orbax" / "1"
    if not source.is_dir():
        pytest.skip("this installation of T5X has no tiny_orbax in its testdata")
    folder = tmp_path / "1"
    shutil.copytree(source, folder)
    # T5X's repository omits the dot files with the arrays' metadata.
    described = {"bias": ([5], "<f4"), "kernel": ([10, 5], "<f8"), "step": ([], "<i4")}
    for place in folder.iterdir():
        if place.is_dir() and not (place / ".zarray").exists():
            shape, dtype = described[place.name.split(".")[-1]]
            content = {"shape": shape, "chunks": shape, "dtype": dtype, "compressor": {"id": "zstd", "level": 1}}
            if (place / ("0" if len(shape) < 2 else "0.0")).read_bytes()[:2] == b"\x1f\x8b":
                content["compressor"] = {"id": "gzip", "level": 1}
            content |= {"fill_value": None, "filters": None, "order": "C", "zarr_format": 2}
            (place / ".zarray").write_text(json.dumps(content))
    tensors = t5x_checkpoints.all_tensors(folder)
    assert tensors["_optimizer/state/step"].read() == 1
    np.testing.assert_array_equal(tensors["_optimizer/state/param_states/bias"].read(), np.ones(5, np.float32))
    kernel = tensors["_optimizer/state/param_states/kernel"].read()
    assert kernel.shape == (10, 5) and np.isfinite(kernel).all()


def test_t5xs_tiny_t5_inside_its_index():
    path = TESTDATA / "test_t5_tiny.checkpoint_0"
    if not path.is_file():
        pytest.skip(f"this installation of T5X has no {path.name} in its testdata")
    opened = t5x_checkpoints.open_checkpoint(path)
    config = weights.infer_config(opened)
    assert (config.vocab_size, config.embed_dim, config.num_heads, config.head_dim) == (32128, 8, 4, 3)
    params = t5x_checkpoints.load_params(path, config)
    logits = Transformer(config).apply({"params": params}, ModelInputs(INPUTS, SHIFTED))
    assert np.isfinite(np.asarray(logits)).all()


def test_mesh_tensorflow_checkpoints_are_recognised():
    folder = TESTDATA / "mtf_tiny_t5"
    if not (folder / "checkpoint").is_file():
        pytest.skip("this installation of T5X has no mtf_tiny_t5 in its testdata")
    with pytest.raises(ValueError, match="TensorFlow checkpoint"):
        t5x_checkpoints.open_checkpoint(folder)
