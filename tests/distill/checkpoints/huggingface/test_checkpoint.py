"""Hugging Face checkpoints, both ways, against ``transformers`` itself; names of the hub; folders that do not fit."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import tracemalloc

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import transformers

from distill.checkpoints import conversion, huggingface, initial
from distill.checkpoints.huggingface import weights_folder
from distill.checkpoints.huggingface.config import config_from_hf
from distill.model import network, parameters
from distill.model.network import ModelInputs
from distill.sharding import partitioning
from tests.distill import hf_models
from tests.distill.checkpoints.written import random_params, same

FAMILIES = list(hf_models.FAMILIES)


def rewrite(folder: pathlib.Path, change) -> None:
    """Applies ``change`` to the dictionary of tensors of ``folder``."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scan", [False, True])
def test_to_transformers_and_back(family, scan, tmp_path):
    model = hf_models.build(family)
    source = hf_models.save(model, family, tmp_path / "there")
    config, params = huggingface.load_pretrained(source, scan_layers=scan)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), parameters.param_shapes(config))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == shapes
    if scan:
        unscanned = huggingface.load_pretrained(source)
        same(parameters.unstack_layers(params, config)[0], unscanned[1])

    model_type = hf_models.fields(family)["model_type"]
    huggingface.save_pretrained_folder(params, config, tmp_path / "back", model_type=model_type)
    again_config, again = huggingface.load_pretrained(tmp_path / "back", scan_layers=scan)
    assert again_config == config
    same(again, params)

    loaded, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    wanted = model.state_dict()
    got = loaded.state_dict()
    assert got.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(got[name], wanted[name]), name
    tokens = torch.tensor([[5, 7, 9, 1]])
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.eval()(input_ids=tokens, decoder_input_ids=tokens).logits,
            model(input_ids=tokens, decoder_input_ids=tokens).logits,
            rtol=0.0,
            atol=0.0,
        )
    assert loaded.generation_config.decoder_start_token_id == 0
    assert loaded.generation_config.eos_token_id == 1
    assert transformers.AutoConfig.from_pretrained(tmp_path / "back").model_type == model_type


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_written_by_transformers(family, tmp_path):
    """Newer versions write ``tie_word_embeddings: true`` for all, and say the truth elsewhere."""
    model = hf_models.build(family)
    hub = hf_models.save(model, family, tmp_path / "hub")
    type(model).from_pretrained(hub).save_pretrained(tmp_path / "saved")
    same(huggingface.load_pretrained(tmp_path / "saved"), huggingface.load_pretrained(hub))


def test_shards(tmp_path):
    config = config_from_hf(hf_models.fields("umt5"))
    params = random_params(config)
    huggingface.save_pretrained_folder(params, config, tmp_path, max_shard_bytes=20_000, generation={"num_beams": 4})
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 3
    assert sorted(set(index["weight_map"].values())) == shards
    assert index["metadata"]["total_size"] == 4 * parameters.param_count(config)
    same(huggingface.load_params(tmp_path, config), params)
    model = transformers.UMT5ForConditionalGeneration.from_pretrained(tmp_path)
    table = params["token_embedder"]["embedding"]
    np.testing.assert_array_equal(model.shared.weight.detach().numpy(), table)
    assert transformers.GenerationConfig.from_pretrained(tmp_path).num_beams == 4

    # Writing again leaves nothing of what was there.
    params = random_params(config, seed=1)
    huggingface.save_pretrained_folder(params, config, tmp_path)
    weights = sorted(path.name for path in tmp_path.iterdir() if "model" in path.name)
    assert weights == ["model.safetensors"]
    huggingface.save_pretrained_folder(params, config, tmp_path, max_shard_bytes=20_000)
    assert not (tmp_path / "model.safetensors").exists()
    same(huggingface.load_params(tmp_path, config), params)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_become_float32(dtype, folder):
    tensors = {k: v.to(dtype) for k, v in safetensors.torch.load_file(folder / "model.safetensors").items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    _, params = huggingface.load_pretrained(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["token_embedder"]["embedding"], tensors["shared.weight"].float().numpy())


def test_one_table_for_tokens_and_unscaled_logits(folder):
    """Without an output kernel in the file, an unscaled network takes the token table."""
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight"))
    config, params = huggingface.load_pretrained(folder)
    assert not config.logits_via_embedding
    kernel = params["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_array_equal(kernel, params["token_embedder"]["embedding"].T)


def test_copies_of_the_table_are_passed_over(tmp_path):
    folder = hf_models.save(hf_models.build("t5"), "t5", tmp_path)
    wanted = huggingface.load_pretrained(folder)

    def copy(tensors):
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors["shared.weight"].copy()
        # The first checkpoints have this, and no network reads it.
        tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = np.ones((32, 4), np.float32)

    rewrite(folder, copy)
    same(huggingface.load_pretrained(folder), wanted)
    rewrite(folder, lambda tensors: tensors["decoder.embed_tokens.weight"].__setitem__((3, 3), 7.0))
    with pytest.raises(ValueError, match=r"decoder.embed_tokens.weight: checkpoint has one that is not shared.weight"):
        huggingface.load_pretrained(folder)


def test_parameters_are_placed_as_they_are_read(folder):
    config = huggingface.read_config(folder, scan_layers=True)
    mesh = partitioning.MeshConfig(data=2, fsdp=2, model=2).build()
    shardings = partitioning.param_shardings(
        parameters.param_shapes(config), parameters.param_logical_axes(config), mesh
    )
    placed = huggingface.load_params(folder, config, shardings=shardings)
    jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding or pytest.fail(str(leaf.sharding)), placed, shardings)
    plain = huggingface.load_params(folder, config)
    same(jax.device_get(placed), plain)
    huggingface.save_pretrained_folder(placed, config, folder)
    same(huggingface.load_params(folder, config), plain)


@pytest.mark.parametrize("scan", [False, True])
def test_no_second_copy_in_memory(scan, tmp_path):
    config = dataclasses.replace(config_from_hf(hf_models.fields("t5", num_layers=12, d_ff=1024)), scan_layers=scan)
    params = random_params(config)
    huggingface.save_pretrained_folder(params, config, tmp_path)
    size = 4 * parameters.param_count(config)
    tracemalloc.start()
    loaded = huggingface.load_params(tmp_path, config)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    same(loaded, params)
    assert size < peak < 1.2 * size


def cached_repository(name: str, source: pathlib.Path, cache: pathlib.Path, revision: str = "main") -> None:
    """Lays ``source`` in ``cache`` as the hub's client does: blobs, and links to them from a snapshot."""
    repository = cache / f"models--{name.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for part in ("blobs", "refs", f"snapshots/{commit}"):
        (repository / part).mkdir(parents=True)
    (repository / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    for file in source.iterdir():
        shutil.copy(file, repository / "blobs" / file.name)
        (repository / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{file.name}")


@pytest.mark.parametrize("name", ["google/flan-t5-tiny", "t5-tiny"])
def test_hub_names_offline(name, folder, tmp_path, monkeypatch):
    cached_repository(name, folder, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    same(huggingface.load_pretrained(name), huggingface.load_pretrained(folder))


def test_a_revision_of_a_hub_name(folder, tmp_path, monkeypatch):
    cached_repository("google/flan-t5-tiny", folder, tmp_path / "cache", "refs/pr/6")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    name = "google/flan-t5-tiny@refs/pr/6"
    config, params = huggingface.load_pretrained(folder)
    same(huggingface.load_pretrained(name), (config, params))
    assert conversion.kind_of(name) == conversion.HUGGING_FACE
    with conversion.open_source(name) as source:
        assert source.found().startswith(f"Hugging Face checkpoint {name}: vocabulary {config.vocab_size}")
    shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), params)
    same((config, initial.load(name, config, shardings)), (config, params))
    with pytest.raises(FileNotFoundError, match="'google/flan-t5-tiny' is neither a folder nor"):
        huggingface.load_pretrained("google/flan-t5-tiny")  # its default branch is not there
    with pytest.raises(ValueError, match="names the revision 'refs/pr/6', and 'main' is given beside it"):
        huggingface.load_pretrained(name, revision="main")
    with pytest.raises(ValueError, match="expected name@revision"):
        huggingface.load_pretrained("google/flan-t5-tiny@")


@pytest.mark.parametrize(
    ("source", "split"),
    [
        ("t5-small@main", ("t5-small", "main")),
        ("google/mt5-small@refs/pr/6", ("google/mt5-small", "refs/pr/6")),
        ("./runs/a@b", ("./runs/a@b", None)),
        ("a/b/c@d", ("a/b/c@d", None)),
        ("gs://bucket@x/a", ("gs://bucket@x/a", None)),
        ("t5-small", ("t5-small", None)),
    ],
)
def test_where_a_revision_begins(source, split):
    assert huggingface.split_revision(source) == split


def test_a_full_disk_is_not_a_repository_that_cannot_be_reached(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/model.safetensors")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(OSError, match="No space left on device"):
        huggingface.load_pretrained("google/flan-t5-tiny")


@pytest.mark.parametrize(
    "name", ["google/no-such-model", "no-such-model", "bad name!", "a/b/c", "/no/such/folder", "./x"]
)
def test_nothing_there(name, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"is neither a folder nor|is not a folder"):
        huggingface.load_pretrained(name)


def test_no_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        huggingface.load_pretrained(folder)
    config = config_from_hf(hf_models.fields("t5_v1_1"))
    assert huggingface.load_params(folder, config)["token_embedder"]["embedding"].shape == (101, 32)


def test_every_difference_is_in_one_error(folder):
    config = huggingface.read_config(
        folder, vocab_size=128, num_decoder_layers=3, mlp_dim=40, logits_via_embedding=True, layer_norm_epsilon=1e-5
    )
    rewrite(folder, lambda tensors: tensors.update({"classifier.weight": np.zeros((2, 3), np.float32)}))
    with pytest.raises(ValueError, match="does not fit the configuration") as caught:
        huggingface.load_params(folder, config)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    binding = "--gin.network.T5Config."
    for wanted in [
        f"setting vocab_size: checkpoint 101, configuration 128 ({binding}vocab_size=101)",
        f"setting num_decoder_layers: checkpoint 2, configuration 3 ({binding}num_decoder_layers=2)",
        f"setting logits_via_embedding: checkpoint False, configuration True ({binding}logits_via_embedding=False)",
        f"setting layer_norm_epsilon: checkpoint 1e-06, configuration 1e-05 ({binding}layer_norm_epsilon=1e-06)",
        "shared.weight: checkpoint [101, 32], configuration [128, 32]",
        "lm_head.weight: checkpoint [101, 32], configuration has none",
        "encoder.block.1.layer.1.DenseReluDense.wi_0.weight: checkpoint [48, 32], configuration [40, 32]",
        "encoder.block.1.layer.1.DenseReluDense.wo.weight: checkpoint [32, 48], configuration [32, 40]",
        "decoder.block.2.layer.0.SelfAttention.q.weight: checkpoint has none, configuration [24, 32]",
        "classifier.weight: checkpoint [2, 3], configuration has none",
    ]:
        assert wanted in lines, wanted
    settings, tables, inner, block, extra = 5, 2, 4 * 3, 14, 1
    assert len(lines) - 1 == settings + tables + inner + block + extra
    assert f"({len(lines) - 1} differences)" in lines[0]


def test_settings_that_no_shape_shows(folder):
    config = huggingface.read_config(folder, mlp_activations=("silu", "linear"), relative_attention_max_distance=64)
    with pytest.raises(ValueError, match=r"\(2 differences\)") as caught:
        huggingface.load_params(folder, config)
    assert "setting mlp_activations: checkpoint ('gelu', 'linear'), configuration ('silu', 'linear')" in str(
        caught.value
    )


def test_a_tied_checkpoint_for_an_untied_configuration(tmp_path):
    folder = hf_models.save(hf_models.build("t5"), "t5", tmp_path)
    config = huggingface.read_config(folder, logits_via_embedding=False)
    with pytest.raises(ValueError, match=r"setting logits_via_embedding(.|\n)*lm_head.weight: checkpoint has none"):
        huggingface.load_params(folder, config)


def test_integers_are_no_weights(folder):
    rewrite(folder, lambda t: t.update({"shared.weight": np.zeros((101, 32), np.int64)}))
    with pytest.raises(
        ValueError, match=r"shared.weight: checkpoint I64, wanted one of \('F64', 'F32', 'BF16', 'F16'\)"
    ):
        huggingface.load_pretrained(folder)
    message = r"shared.weight must be one of .*; got I64"
    with weights_folder.WeightsFolder(folder) as weights, pytest.raises(ValueError, match=message):
        weights.read("shared.weight")


def test_parameters_that_do_not_fit_are_not_written(tmp_path):
    config = config_from_hf(hf_models.fields("t5_v1_1"))
    params = random_params(config)
    del params["encoder"]["relpos_bias"]
    params["decoder"]["logits_dense"]["kernel"] = np.zeros((32, 99), np.float32)
    params["decoder"]["layers_2"] = {"mlp": {"wo": {"kernel": np.zeros((1, 1), np.float32)}}}
    with pytest.raises(ValueError, match="the parameters do not fit the configuration") as caught:
        huggingface.save_pretrained_folder(params, config, tmp_path / "out")
    assert "encoder/relpos_bias/rel_embedding: there is none, configuration [4, 32]" in str(caught.value)
    assert "decoder/logits_dense/kernel: [32, 99], configuration [32, 101]" in str(caught.value)
    assert "decoder/layers_2/mlp/wo/kernel: [1, 1], configuration has none" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("activation", ["gelu", "silu", "gated-relu", "gelu_new"])
def test_activations_are_the_ones_of_pytorch(activation, tmp_path):
    model = hf_models.build("t5", feed_forward_proj=activation, num_layers=1)
    folder = hf_models.save(model, "t5", tmp_path, feed_forward_proj=activation, num_layers=1)
    config, params = huggingface.load_pretrained(folder)
    tokens = np.array([[5, 7, 9, 1]], np.int32)
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor(tokens).long(), decoder_input_ids=torch.tensor(tokens).long()).logits
    got = jax.jit(lambda p: network.Transformer(config).apply({"params": p}, ModelInputs(tokens, tokens)))(params)
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)


# Damaged or hostile files
