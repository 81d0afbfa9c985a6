"""``config.json`` of T5Gemma and T5Gemma 2: both ways, old and new fields, and features that are refused by name."""

import copy
import dataclasses

import pytest
import transformers

from distill.checkpoints.huggingface.gemma_config import config_from_hf, config_to_hf
from distill.model.parameters import param_count
from distill.model.t5gemma_config import StackConfig
from tests.distill import gemma_models


def fields(family):
    return gemma_models.config(family).to_dict()


@pytest.mark.parametrize("family", gemma_models.FAMILIES)
def test_both_ways(family):
    config = config_from_hf(fields(family))
    assert config_from_hf(config_to_hf(config)) == config
    kind = transformers.T5Gemma2Config if family == "t5gemma2" else transformers.T5GemmaConfig
    assert config_from_hf(kind(**config_to_hf(config)).to_dict()) == config


def test_the_default_models_of_transformers():
    """Gemma 2's 2B-2B, and Gemma 3's shapes with five local layers to one global."""
    first = config_from_hf(transformers.T5GemmaConfig().to_dict())
    stack = StackConfig(26, 2304, 9216, 8, 4, 256, 256.0, 4096, 2)
    assert (first.encoder, first.decoder, first.vocab_size) == (stack, stack, 256_000)
    assert (first.attention_logit_cap, first.final_logit_cap, first.rope_base_global) == (50.0, 30.0, 10_000.0)
    second = config_from_hf(transformers.T5Gemma2Config().to_dict())
    assert second.encoder == second.decoder == dataclasses.replace(stack, global_every=6)
    assert (second.rope_base_local, second.rope_base_global) == (10_000.0, 1_000_000.0)
    assert second.final_logit_cap is None and second.vocab_size == 262_208


def test_the_published_270m():
    """The settings of google/t5gemma-2-270m-270m as its config.json has them; positions of global layers are scaled."""
    ropes = {
        "full_attention": {"factor": 8.0, "rope_theta": 1000000, "rope_type": "linear"},
        "sliding_attention": {"rope_theta": 10000, "rope_type": "default"},
    }
    text = {
        "_sliding_window_pattern": 6, "attention_bias": False, "attn_logit_softcapping": None, "dtype": "bfloat16",
        "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 640,
        "intermediate_size": 2048, "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 3,
        "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 18, "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_parameters": ropes, "sliding_window": 512,
        "use_bidirectional_attention": False, "vocab_size": 262144,
    }  # fmt: skip
    config = config_from_hf({"model_type": "t5gemma2", "encoder": {"text_config": text}, "decoder": text})
    assert config.encoder == config.decoder == StackConfig(18, 640, 2048, 4, 1, 256, 256.0, 512, 6)
    assert (config.rope_base_local, config.rope_base_global) == (10_000.0, 1_000_000.0)
    assert (config.rope_scale_local, config.rope_scale_global) == (1.0, 8.0)
    assert 368e6 < param_count(config) < 369e6


def test_fields_of_older_files():
    """Rotary bases as plain numbers, a pattern instead of a list of layers."""
    new = fields("t5gemma2")
    old = copy.deepcopy(new)
    for section in (old["encoder"]["text_config"], old["decoder"]):
        del section["rope_parameters"], section["layer_types"]
        section |= {"rope_theta": 1000.0, "rope_local_base_freq": 100.0, "sliding_window_pattern": 3}
        section |= {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert config_from_hf(old) == config_from_hf(new)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("t5gemma", {"hidden_activation": "relu"}, "hidden_activation must be 'gelu_pytorch_tanh'; got 'relu'"),
        ("t5gemma2", {"attention_bias": True}, "attention_bias must be false; got True"),
        ("t5gemma2", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type must be .* got 'yarn'"),
        ("t5gemma2", {"attn_logit_softcapping": 50.0}, "attention_logit_cap must be None in version 2; got 50.0"),
        (
            "t5gemma",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types must have .* equal distances",
        ),
        ("t5gemma", {"layer_types": ["full_attention"]}, "layer_types must be 2 of 'sliding_attention' and"),
        ("t5gemma", {"num_key_value_heads": 3}, "num_kv_heads must divide num_heads=4; got 3"),
        ("t5gemma", {"head_dim": "8"}, r"head_dim must be an integer in \[1, 16384\]; got '8'"),
        ("t5gemma", {"query_pre_attn_scalar": None}, "query_pre_attn_scalar must be a number; got None"),
        ("t5gemma", {"eos_token_id": 107}, "eos_token_id must be 1, or a list with 1, here; got 107"),
        ("t5gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention must be false; got True"),
        ("t5gemma2", {"pad_token_id": 3}, "pad_token_id must be 0 here; got 3"),
        ("t5gemma", {"rope_parameters": 3}, "rope_parameters must be an object; got 3"),
    ],
)
def test_features_that_are_refused(family, changes, message):
    given = fields(family)
    for section in (given["encoder"].get("text_config", given["encoder"]), given["decoder"]):
        section |= changes
    with pytest.raises(ValueError, match=f"^there.*: .*{message}"):
        config_from_hf(given, "there")


def test_stacks_that_do_not_fit_each_other():
    given = fields("t5gemma")
    given["decoder"]["rms_norm_eps"] = 1e-5
    with pytest.raises(ValueError, match="rms_norm_eps of encoder and decoder must be the same; got 1e-06 and 1e-05"):
        config_from_hf(given)
    given = fields("t5gemma2")
    given["decoder"]["rope_parameters"]["sliding_attention"]["rope_theta"] = 5.0
    with pytest.raises(ValueError, match="rotary embeddings of encoder and decoder must be the same"):
        config_from_hf(given)
    with pytest.raises(ValueError, match="there: encoder must be an object; got None"):
        config_from_hf({"model_type": "t5gemma"}, "there")


def test_several_end_tokens_are_accepted_if_one_is_ours():
    given = fields("t5gemma")
    for section in (given["encoder"], given["decoder"]):
        section["eos_token_id"] = [1, 107]
    assert config_from_hf(given) == config_from_hf(fields("t5gemma"))
