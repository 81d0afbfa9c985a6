"""From any checkpoint to any other and back; what a run starts from; safetensors written in pieces."""

import dataclasses
import json
import logging
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.checkpoints import conversion, huggingface, initial, manager
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.huggingface import safetensors_stream
from distill.checkpoints.weights import flat_shapes, flatten
from distill.model.network import T5Config
from distill.model.parameters import param_logical_axes, param_shapes, stack_layers, unstack_layers
from distill.sharding import partitioning

CONFIG = T5Config(20, 8, 2, 4, 12, 2, 3)
FAMILIES = {
    "t5_1_1": CONFIG,
    "t5_1_0": dataclasses.replace(CONFIG, mlp_activations=("relu",), logits_via_embedding=True),
    "umt5": dataclasses.replace(CONFIG, relative_bias_per_layer=True),
}


def random_params(config, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), param_shapes(config))


def write_source(folder, config, params, kind):
    if kind == "hf":
        plain, config = unstack_layers(params, config)
        huggingface.save_pretrained_folder(plain, config, folder)
    elif kind == "distill":
        conversion.write_model_dir(flatten(params).__getitem__, config, folder, 4)
    else:
        format = "orbax" if kind == "t5x_orbax" else "native"
        t5x_checkpoints.save(params, config, folder, 4, format=format)
    return folder


def shardings_of(config):
    mesh = partitioning.MeshConfig(1, 1, 1).build()
    return partitioning.param_shardings(
        param_shapes(config), param_logical_axes(config), mesh, partitioning.DEFAULT_RULES
    )


def same(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["hf", "distill", "t5x", "t5x_orbax"])
def test_every_format_becomes_every_other(family, kind, tmp_path):
    config = FAMILIES[family]
    params = random_params(config)
    write_source(tmp_path / "source", config, params, kind)
    for to_format in conversion.TO_FORMATS:
        for scan in (False,) if to_format == "hf" else (False, True):
            to = tmp_path / f"{to_format}_{scan}"
            conversion.convert(tmp_path / "source", to, to_format, scan_layers=scan)
            with conversion.open_source(to) as opened:
                assert opened.checkpoint.scanned == scan
                same(conversion.Weights(opened.checkpoint, config).tree(), params)


def test_a_converted_model_dir_is_a_students(tmp_path):
    params = random_params(CONFIG)
    write_source(tmp_path / "hf", CONFIG, params, "hf")
    conversion.convert(tmp_path / "hf", tmp_path / "run", "distill", step=7)
    mesh = partitioning.MeshConfig(1, 1, 1).build()
    step, restored = manager.restore_student(tmp_path / "run", CONFIG, mesh)
    assert step == 7
    same(jax.tree.map(np.asarray, restored), params)
    with pytest.raises(ValueError, match="holds a model already"):
        conversion.convert(tmp_path / "hf", tmp_path / "run", "distill")


def test_what_a_run_starts_from_is_said_and_laid_out(tmp_path, caplog):
    params = random_params(CONFIG)
    stacked = dataclasses.replace(CONFIG, scan_layers=True)
    for kind, name in (("hf", "Hugging Face"), ("distill", "distill"), ("t5x", "T5X"), ("t5x_orbax", "T5X")):
        write_source(tmp_path / kind, CONFIG, params, kind)
        with caplog.at_level(logging.WARNING):
            loaded = initial.load(str(tmp_path / kind), stacked, shardings_of(stacked))
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
        same(unstack_layers(jax.tree.map(np.asarray, loaded), stacked)[0], params)
        told = caplog.records[-1].getMessage()
        assert f"starting from the {name} checkpoint" in told
        assert "vocabulary 20, width 8, 2 + 3 layers, separate output kernel, 4,056 parameters" in told
        caplog.clear()


@pytest.mark.parametrize("kind", ["hf", "distill", "t5x", "t5x_orbax"])
def test_a_student_of_another_shape_is_refused(kind, tmp_path):
    write_source(tmp_path / "source", CONFIG, random_params(CONFIG), kind)
    for changes in ({"vocab_size": 24}, {"embed_dim": 16}, {"num_encoder_layers": 3}, {"logits_via_embedding": True}):
        other = dataclasses.replace(CONFIG, **changes)
        with pytest.raises(ValueError, match=r"does not fit the configuration|is of another model"):
            initial.load(str(tmp_path / "source"), other, shardings_of(other))


def test_kinds(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no checkpoint: expected"):
        initial.kind_of(str(tmp_path / "empty"))
    for path in (str(tmp_path / "absent"), "./absent", "gs://bucket", "a/b/c"):
        if not path.startswith("gs://"):
            with pytest.raises(FileNotFoundError):
                initial.kind_of(path)
    assert initial.kind_of("google/t5-v1_1-small") == initial.HUGGING_FACE
    (tmp_path / "run" / "checkpoint_3").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint_3" / "checkpoint").touch()
    assert initial.kind_of(str(tmp_path / "run")) == initial.T5X
    assert initial.kind_of(str(tmp_path / "run" / "checkpoint_3" / "checkpoint")) == initial.T5X


def test_damaged_sources(tmp_path):
    params = random_params(CONFIG)
    run = write_source(tmp_path / "run", CONFIG, params, "distill")
    model = run / "best" / "4" / "model" / "metadata"
    content = model.read_text()
    for damaged in ("{", "[]", '{"vocab_size": 3}', content.replace('"embed_dim": 8', '"embed_dim": "8"')):
        model.write_text(damaged)
        with pytest.raises(ValueError, match="is damaged"), conversion.open_source(run):
            pass
    model.write_text(content)
    shutil.rmtree(run / "best" / "4" / "params")
    with pytest.raises((ValueError, FileNotFoundError)), conversion.open_source(run):
        pass
    hf = write_source(tmp_path / "hf", CONFIG, params, "hf")
    tensors = safetensors.numpy.load_file(hf / "model.safetensors")
    tensors["adapter.weight"] = np.zeros((2, 3), np.float32)
    del tensors["encoder.final_layer_norm.weight"]
    safetensors.numpy.save_file(tensors, hf / "model.safetensors")
    with pytest.raises(ValueError) as error:
        conversion.convert(hf, tmp_path / "out", "t5x")
    assert "adapter.weight: checkpoint [2, 3], configuration has none" in str(error.value)
    assert "encoder/encoder_norm/scale: checkpoint has none, configuration [8]" in str(error.value)
    with pytest.raises(ValueError, match="to_format must be one of"):
        conversion.convert(hf, tmp_path / "out", "onnx")


def test_big_hugging_face_folders_are_sharded(tmp_path):
    params = random_params(CONFIG)
    huggingface.write(flatten(params).__getitem__, CONFIG, tmp_path, max_shard_bytes=2000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    same(huggingface.load_params(tmp_path, CONFIG), params)
    huggingface.write(flatten(params).__getitem__, CONFIG, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]
    same(huggingface.load_params(tmp_path, CONFIG), params)


def test_a_stacked_array_is_read_once(tmp_path):
    params, config = stack_layers(random_params(CONFIG), CONFIG)
    t5x_checkpoints.save(jax.tree.map(np.asarray, params), config, tmp_path, 0)
    checkpoint = t5x_checkpoints.open_checkpoint(tmp_path)
    reads: dict[str, int] = {}

    def counted(name, tensor):
        def load(index):
            reads[name] = reads.get(name, 0) + 1
            return tensor.read(index)

        return dataclasses.replace(tensor, load=load)

    counting = dataclasses.replace(checkpoint, tensors={n: counted(n, t) for n, t in checkpoint.tensors.items()})
    weights = conversion.Weights(counting, CONFIG)
    huggingface.write(weights.read, CONFIG, tmp_path / "hf")
    assert reads == dict.fromkeys(flat_shapes(config), 1)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.dictionaries(
        st.text('abc.é"\\', min_size=1, max_size=5),
        st.lists(st.integers(0, 9), max_size=3).map(tuple),
        min_size=1,
        max_size=5,
    ),
    block=st.integers(1, 200),
)
def test_safetensors_files_written_in_pieces(shapes, block, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    path = tmp_path / "file.safetensors"
    before, safetensors_stream.BLOCK_BYTES = safetensors_stream.BLOCK_BYTES, block
    try:
        with safetensors_stream.SafetensorsWriter(path, shapes) as file:
            for name in sorted(tensors, reverse=True):
                file.write(name, np.asfortranarray(tensors[name]) if tensors[name].ndim == 2 else tensors[name])
    finally:
        safetensors_stream.BLOCK_BYTES = before
    read = safetensors.numpy.load_file(path)
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


def test_unfinished_safetensors_files_leave_nothing(tmp_path):
    path = tmp_path / "file.safetensors"

    def write(shapes, array):
        with safetensors_stream.SafetensorsWriter(path, shapes) as file:
            file.write("a", array)

    with pytest.raises(ValueError, match="1 tensors were not written, such as b"):
        write({"a": (2,), "b": (3,)}, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="must be of shape"):
        write({"a": (2,)}, np.zeros(3, np.float32))
    assert not list(tmp_path.iterdir())
