"""From any checkpoint to any other and back; a damaged source is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from distill.checkpoints import conversion, huggingface, manager
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.weights import flat_shapes, flatten
from distill.model.parameters import stack_layers
from distill.sharding import partitioning
from tests.distill.checkpoints.written import CONFIG, random_params, same, write_source

FAMILIES = {
    "t5_1_1": CONFIG,
    "t5_1_0": dataclasses.replace(CONFIG, mlp_activations=("relu",), logits_via_embedding=True),
    "umt5": dataclasses.replace(CONFIG, relative_bias_per_layer=True),
}


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
    before = {path: path.read_bytes() for path in hf.iterdir()}
    with pytest.raises(ValueError, match="hf holds a model already; name another directory"):
        conversion.convert(hf, hf)
    assert before == {path: path.read_bytes() for path in hf.iterdir()}
    for name in ("generation_config.json", "model.safetensors.index.json"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(ValueError, match="holds a model already"):
            conversion.convert(hf, tmp_path)
        (tmp_path / name).unlink()
    with pytest.raises(
        ValueError, match="a Hugging Face folder is written to a local path; got 'gs://bucket/out': name"
    ):
        conversion.convert(hf, "gs://bucket/out")


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
