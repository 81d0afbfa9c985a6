"""``config.json`` there and back, its defaults, and fields that are refused."""

import dataclasses
import re

import pytest

from distill.checkpoints.huggingface.config import config_from_hf, config_to_hf, scales_decoder_output
from distill.model.config import T5Config

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
    with pytest.raises(ValueError, match=rf"^some\.json: .*{field}.*{re.escape(f'{value!r:.80}')}"):
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
