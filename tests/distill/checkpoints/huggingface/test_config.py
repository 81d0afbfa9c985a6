"""``config.json`` there and back, its defaults, and fields that are refused."""

import dataclasses
import re

import pytest

from distill.checkpoints import huggingface
from distill.checkpoints.huggingface.config import config_from_hf, config_to_hf, scales_decoder_output
from distill.model import parameters
from distill.model.config import T5Config
from distill.validation import quoted
from tests.distill import hf_models

CONFIG = T5Config(
    vocab_size=20, embed_dim=8, num_heads=2, head_dim=3, mlp_dim=5, num_encoder_layers=2, num_decoder_layers=3
)


@pytest.mark.parametrize(
    "changes, model_type",
    [
        ({}, None),
        ({}, "mt5"),
        ({"logits_via_embedding": True, "mlp_activations": ("relu",)}, "t5"),
        ({"relative_bias_per_layer": True}, None),
        ({"dropout_rate": 0.0, "layer_norm_epsilon": 1e-5}, None),
    ],
)
def test_there_and_back(changes, model_type):
    config = dataclasses.replace(CONFIG, **changes)
    assert config_from_hf(config_to_hf(config, model_type)) == config


@pytest.mark.parametrize(
    "field, value",
    [
        ("model_type", "mt55"), ("model_type", None), ("d_model", 0), ("d_model", "8"), ("d_model", True),
        ("num_heads", 1.0),
        ("num_decoder_layers", 2000), ("dropout_rate", "0.1"), ("feed_forward_proj", "gated"), ("pad_token_id", 1),
        ("eos_token_id", 2), ("is_encoder_decoder", False), ("tie_word_embeddings", 1),
        # Found by fuzzing: these raised TypeError and OverflowError, or gave an infinite epsilon.
        ("model_type", ["t5"]), ("model_type", {"t5": 1}), ("layer_norm_epsilon", 10**400), ("layer_norm_epsilon", 1e308),
    ],
)  # fmt: skip
def test_fields_that_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"^some\.json: .*{field}.*{re.escape(quoted(value))}"):
        config_from_hf({**config_to_hf(CONFIG), field: value}, "some.json")


def test_quantized_weights_are_refused():
    with pytest.raises(ValueError, match="quantization_config"):
        config_from_hf({**config_to_hf(CONFIG), "quantization_config": {"bits": 4}})


def test_overrides():
    assert config_from_hf(config_to_hf(CONFIG), scan_layers=True).scan_layers
    with pytest.raises(ValueError, match="no field 'scan_layer'; did you mean 'scan_layers'"):
        config_from_hf(config_to_hf(CONFIG), scan_layer=True)


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"model_type": "t5"}, True),
        ({"model_type": "t5", "tie_word_embeddings": False}, False),
        ({"model_type": "t5", "tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
        ({"model_type": "mt5", "tie_word_embeddings": True}, False),
    ],
)
def test_which_networks_scale_the_output(fields, expected):
    assert scales_decoder_output(fields) is expected


@pytest.mark.parametrize(
    "changes, model_type",
    [({}, "umt5"), ({"relative_bias_per_layer": True}, "t5"), ({"logits_via_embedding": True}, "mt5"), ({}, "bart"),
     ({"mlp_activations": ("linear",)}, None)],
)  # fmt: skip
def test_configurations_without_a_counterpart(changes, model_type):
    with pytest.raises(ValueError):
        config_to_hf(dataclasses.replace(CONFIG, **changes), model_type)


FAMILIES = list(hf_models.FAMILIES)


FLAN_T5_BASE = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 768,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_decoder_layers": 12,
    "num_heads": 12,
    "num_layers": 12,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "transformers_version": "4.23.1",
    "use_cache": True,
    "vocab_size": 32128,
}


def test_a_released_configuration():
    config = config_from_hf(FLAN_T5_BASE)
    assert config == T5Config(32128, 768, 12, 64, 2048, 12, 12)
    assert parameters.param_count(config) == 247_577_856


def test_the_first_t5_says_little():
    fields = {"model_type": "t5", "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048}
    config = config_from_hf({**fields, "num_heads": 8, "num_layers": 6, "dropout_rate": 0.0})
    assert config.mlp_activations == ("relu",)
    assert config.logits_via_embedding
    assert config.num_decoder_layers == 6
    assert config.relative_attention_max_distance == 128
    assert config.dropout_rate == 0.0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_new", "silu", "gated-gelu", "gated-relu", "gated-silu"])
def test_configurations_there_and_back(family, activation):
    fields = hf_models.fields(family, feed_forward_proj=activation, layer_norm_epsilon=1e-5, dropout_rate=0.2)
    config = config_from_hf(fields)
    back = config_to_hf(config, fields["model_type"])
    assert config_from_hf(back) == config
    assert {name: back[name] for name in fields if name in back} == {k: v for k, v in fields.items() if k in back}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bart"}, "model_type must be one of"),
        ({"model_type": "mt5x"}, "did you mean 'mt5'"),
        ({"model_type": None}, "got None"),
        ({"d_model": None}, r"d_model must be an integer in \[1, 131072\]; got None"),
        ({"d_model": "512"}, "got '512'"),
        ({"d_ff": 2**40}, "d_ff must be an integer in"),
        ({"num_layers": 10**9}, "num_layers must be an integer in"),
        ({"num_layers": 10**100}, "num_layers must be an integer in"),
        ({"num_heads": True}, "num_heads must be an integer"),
        ({"num_decoder_layers": 0}, "num_decoder_layers must be an integer"),
        ({"vocab_size": -1}, "vocab_size must be an integer"),
        ({"feed_forward_proj": "gated-mish"}, "feed_forward_proj must be one of"),
        ({"feed_forward_proj": ["relu"]}, "feed_forward_proj must be one of"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false; got 'no'"),
        ({"dropout_rate": "0.1"}, "dropout_rate must be a number"),
        ({"dropout_rate": 1.5}, r"config.json: T5Config.dropout_rate must be in \[0, 1\)"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon must be a number; got nan"),
        ({"relative_attention_num_buckets": 6}, "multiple of 4"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder must be true"),
        ({"pad_token_id": 3}, "pad_token_id must be 0 here; got 3"),
        ({"eos_token_id": [1, 2]}, "eos_token_id must be 1 here"),
        ({"decoder_start_token_id": 2}, "decoder_start_token_id must be 0"),
        ({"quantization_config": {"bits": 8}}, "quantized weights"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        config_from_hf({**FLAN_T5_BASE, **changes})


def test_a_missing_field():
    with pytest.raises(ValueError, match="d_kv is missing"):
        config_from_hf({name: value for name, value in FLAN_T5_BASE.items() if name != "d_kv"})


def test_a_misspelt_override():
    with pytest.raises(ValueError, match="no field 'scan_layer'; did you mean 'scan_layers'"):
        config_from_hf(FLAN_T5_BASE, scan_layer=True)


@pytest.mark.parametrize(
    ("config", "model_type", "message"),
    [
        ({"relative_bias_per_layer": True}, "t5", "position bias in one layer"),
        ({}, "umt5", "position bias in every layer"),
        ({"logits_via_embedding": True}, "mt5", "never scales"),
        ({}, "bart", "model_type must be one of"),
        ({"mlp_activations": ("linear", "gelu", "relu")}, None, "mlp_activations must be one of"),
    ],
)
def test_configurations_with_no_counterpart(config, model_type, message):
    with pytest.raises(ValueError, match=message):
        config_to_hf(T5Config(100, 8, 2, 4, 8, 1, 1, **config), model_type)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"3", b'{"model_type": "t5"'])
def test_damaged_config(content, folder):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        huggingface.load_pretrained(folder)
