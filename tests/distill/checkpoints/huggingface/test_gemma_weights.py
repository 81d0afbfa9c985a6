"""T5Gemma and T5Gemma 2 from and to folders of ``transformers``; folders that do not fit."""

import dataclasses
import functools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from distill import terminal
from distill.checkpoints import conversion, huggingface, initial
from distill.checkpoints.manager import Checkpoints
from distill.model import lora
from distill.model.lora import Lora
from distill.model.network import ModelInputs
from distill.model.networks import network_of
from distill.model.parameters import flatten, unflatten
from distill.training import optimizers
from distill.training.state import init_state
from distill.training.trainable import Trainable, joined
from tests.distill import gemma_models, hf_models
from tests.distill.checkpoints.written import random_params, same

FAMILIES = gemma_models.FAMILIES


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of a family's model, as transformers writes it."""

    @functools.cache
    def folder(family):
        return gemma_models.save(gemma_models.build(family), tmp_path_factory.mktemp(family))

    return folder


def rewritten(source, folder, change):
    """A copy of ``source`` in ``folder`` whose dictionary of tensors ``change`` has edited."""
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_to_transformers_and_back(family, folders, tmp_path):
    """From the exported folder alone, transformers builds the same model: the same bits, the same logits."""
    config, params = huggingface.load_pretrained(folders(family))
    huggingface.save_pretrained_folder(params, config, tmp_path / "back", max_shard_bytes=20_000)
    again_config, again = huggingface.load_pretrained(tmp_path / "back")
    assert again_config == config
    same(again, params)

    kind = transformers.AutoModelForSeq2SeqLM
    loaded, report = kind.from_pretrained(tmp_path / "back", output_loading_info=True, attn_implementation="eager")
    of_images = ("vision_tower", "multi_modal_projector")
    missing = [name for name in report["missing_keys"] if not any(part in name for part in of_images)]
    assert not missing and not report["unexpected_keys"] and not report["mismatched_keys"]
    model = gemma_models.build(family)
    wanted, got = model.state_dict(), loaded.state_dict()
    names = [name for name in wanted if "eoi" not in name and not any(part in name for part in of_images)]
    assert len(names) > 40
    for name in names:
        assert torch.equal(got[name], wanted[name]), name
    assert loaded.generation_config.decoder_start_token_id == 2
    tokens = torch.arange(2, 20)[None]
    with torch.no_grad():
        first, second = (
            one.eval()(input_ids=tokens, decoder_input_ids=tokens, use_cache=False).logits for one in (model, loaded)
        )
    torch.testing.assert_close(second, first, rtol=0.0, atol=0.0)


def test_tensors_of_images_are_left_out_with_one_line(folders, caplog):
    with caplog.at_level(logging.INFO):
        huggingface.load_pretrained(folders("t5gemma2"))
    (line,) = [record.getMessage() for record in caplog.records if "images" in record.getMessage()]
    assert "tensors of images are not read: students are text only" in line


def test_a_run_that_starts_from_such_a_folder_has_the_line_once_and_as_no_warning(folders, caplog):
    """A run opens its folder twice."""
    folder = str(folders("t5gemma2"))
    with caplog.at_level(logging.INFO):
        initial.load(folder, huggingface.read_config(folder), None)
    lines = [terminal.LogFormat().format(record) for record in caplog.records]
    assert len([line for line in lines if "images" in line]) == 1
    assert not [line for line in lines if "WARNING" in line]


def test_other_names_of_the_same_tensors(folders, tmp_path):
    """Files with ``text_model`` in the encoder's names, and with copies of the one table."""
    source = folders("t5gemma2")
    wanted = huggingface.load_pretrained(source)

    def older(tensors):
        text = tuple(f"model.encoder.{part}" for part in ("layers.", "norm.", "embed_tokens."))
        for name in [name for name in tensors if name.startswith(text)]:
            tensors[name.replace("model.encoder.", "model.encoder.text_model.")] = tensors.pop(name)
        table = tensors.pop("model.encoder.text_model.embed_tokens.weight")
        tensors["model.decoder.embed_tokens.weight"] = table
        tensors["lm_head.out_proj.weight"] = table.copy()

    got = huggingface.load_pretrained(rewritten(source, tmp_path / "older", older))
    assert got[0] == wanted[0]
    same(got[1], wanted[1])


def test_a_folder_that_does_not_fit_names_every_difference(folders, tmp_path):
    def damaged(tensors):
        tensors["lm_head.out_proj.weight"] = tensors["model.decoder.embed_tokens.weight"] + 1.0
        tensors["model.decoder.layers.0.self_attn.q_norm.weight"] = np.zeros(8, np.float32)
        del tensors["model.encoder.layers.1.mlp.up_proj.weight"]
        tensors["model.decoder.norm.weight"] = np.zeros(3, np.float32)

    folder = rewritten(folders("t5gemma"), tmp_path / "damaged", damaged)
    config = huggingface.read_config(folder)
    with pytest.raises(ValueError, match=r"does not fit the configuration \(4 differences\)") as error:
        huggingface.load_params(folder, config)
    for line in (
        "lm_head.out_proj.weight: checkpoint has one that is not model.decoder.embed_tokens.weight",
        "model.decoder.layers.0.self_attn.q_norm.weight: checkpoint [8], configuration has none",
        "model.encoder.layers.1.mlp.up_proj.weight: checkpoint has none, configuration [48, 32]",
        "model.decoder.norm.weight: checkpoint [3], configuration [32]",
    ):
        assert line in str(error.value)
    other = dataclasses.replace(huggingface.read_config(folders("t5gemma")), final_logit_cap=None)
    with pytest.raises(ValueError, match=r"setting final_logit_cap: checkpoint 3\.0, configuration None"):
        huggingface.load_params(folders("t5gemma"), other)
    settings = huggingface.read_config(folders("t5gemma2"))
    encoder = dataclasses.replace(settings.encoder, sliding_window=7)
    with pytest.raises(ValueError, match=r"\(2 differences\)") as error:
        huggingface.load_params(
            folders("t5gemma2"), dataclasses.replace(settings, encoder=encoder, rope_scale_global=8.0)
        )
    assert str(error.value).splitlines()[1:] == [
        "  setting encoder.sliding_window: checkpoint 5, configuration 7 "
        "(--gin.encoder/t5gemma_config.StackConfig.sliding_window=5)",
        "  setting rope_scale_global: checkpoint 2.0, configuration 8.0 "
        "(--gin.t5gemma_config.T5GemmaConfig.rope_scale_global=2.0)",
    ]


def test_a_checkpoint_of_another_family_names_its_own(folders, tmp_path):
    gemma = huggingface.read_config(folders("t5gemma2"))
    with pytest.raises(
        ValueError, match="is a T5Gemma network, the student is a T5Gemma 2: take a model file of T5Gemma"
    ):
        initial.load(str(folders("t5gemma")), gemma, None)
    t5 = hf_models.save(hf_models.build("t5"), "t5", tmp_path / "t5")
    with pytest.raises(ValueError, match="is a T5 network, the student is a T5Gemma 2"):
        initial.load(str(t5), gemma, None)
    with pytest.raises(ValueError, match="is a T5 network, the configuration is a T5Gemma 2"):
        huggingface.load_params(t5, gemma)


def test_a_model_directory_and_back(folders, tmp_path):
    """A converted checkpoint starts a run; T5X's formats are refused."""
    source = folders("t5gemma2")
    config, params = huggingface.load_pretrained(source)
    conversion.convert(source, tmp_path / "ours", "distill")
    same(initial.load(str(tmp_path / "ours"), config, None), params)
    conversion.convert(tmp_path / "ours", tmp_path / "hf", "hf")
    same(huggingface.load_params(tmp_path / "hf", config), params)
    with pytest.raises(ValueError, match="T5X has no T5Gemma 2; write it as 'hf' or 'distill'"):
        conversion.convert(source, tmp_path / "t5x", "t5x")
    wider = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, sliding_window=6))
    with pytest.raises(ValueError, match=r"is of another model: encoder\.sliding_window: 5 there, 6 here"):
        initial.load(str(tmp_path / "ours"), wider, None)


@pytest.mark.parametrize("family", ["t5gemma", "t5gemma2"])
def test_adapters_are_merged_into_an_export(family, folders, tmp_path):
    """transformers computes with the exported kernels what the network computes with adapters."""
    config, params = huggingface.load_pretrained(folders(family))
    optimizer = optimizers.restricted(optimizers.adamw(1e-3), Trainable(Lora(3, alpha=6.0)))
    state = init_state(jax.tree.map(jnp.asarray, params), optimizer)
    rng = np.random.default_rng(0)
    matrices = {name: leaf for name, leaf in flatten(state.params).items() if name.endswith("lora_b")}
    drawn = {name: jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32) for name, leaf in matrices.items()}
    state = state.replace(params=joined(state.params, unflatten(drawn)))
    saver = Checkpoints(tmp_path / "run", config)
    saver.save(state, {"seed": 0, "draws": 0, "consumed": {}}, {})
    saver.close()
    conversion.convert(tmp_path / "run", tmp_path / "hf", "hf")
    tokens = np.arange(2, 20, dtype=np.int32)[None]
    apply = jax.jit(network_of(config).apply)
    got, before = (apply({"params": tree}, ModelInputs(tokens, tokens)) for tree in (lora.scaled(state.params), params))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf", attn_implementation="eager").eval()
    with torch.no_grad():
        ids = torch.from_numpy(tokens).long()
        wanted = model(input_ids=ids, decoder_input_ids=ids, use_cache=False).logits.numpy()
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=0.0, atol=1e-4)
    assert np.abs(np.asarray(before) - wanted).max() > 0.1


def test_random_parameters_of_a_configuration_are_exported(folders, tmp_path):
    config = huggingface.read_config(folders("t5gemma_unbalanced"))
    params = random_params(config)
    huggingface.save_pretrained_folder(params, config, tmp_path)
    same(huggingface.load_params(tmp_path, config), params)
    assert json.loads((tmp_path / "config.json").read_text())["encoder"]["hidden_size"] == 24
    with pytest.raises(ValueError, match="model_type of a T5Gemma must be 't5gemma'; got 't5'"):
        huggingface.save_pretrained_folder(params, config, tmp_path / "wrong", model_type="t5")
