"""Configuration files of any family."""

import pytest

from distill.checkpoints.huggingface import families
from distill.model.configs import family
from tests.distill import gemma_models, hf_models


@pytest.mark.parametrize(
    "fields", [hf_models.fields("umt5"), *(gemma_models.config(f).to_dict() for f in gemma_models.FAMILIES)]
)
def test_both_ways(fields):
    config = families.config_from_hf(fields, dtype="bfloat16")
    assert config.dtype == "bfloat16"
    assert families.config_from_hf(families.config_to_hf(config), dtype="bfloat16") == config
    assert len(families.entries(config)) > 10


def test_families_by_their_model_type():
    names = ["t5gemma", "t5gemma2"]
    assert [family(families.config_from_hf(gemma_models.config(name).to_dict())) for name in names] == [
        "T5Gemma",
        "T5Gemma 2",
    ]


@pytest.mark.parametrize("fields", [hf_models.fields("t5"), gemma_models.config("t5gemma2").to_dict()])
def test_files_that_are_refused(fields):
    with pytest.raises(ValueError, match="quantized weights cannot be trained"):
        families.config_from_hf({**fields, "quantization_config": {}})
    with pytest.raises(ValueError, match="is_encoder_decoder must be true; got False"):
        families.config_from_hf({**fields, "is_encoder_decoder": False})
    with pytest.raises(ValueError, match="Config has no field 'dtyp'; did you mean 'dtype'"):
        families.config_from_hf(fields, dtyp="bfloat16")
    known = r"\['mt5', 't5', 't5gemma', 't5gemma2', 'umt5'\]"
    with pytest.raises(ValueError, match=f"model_type must be one of {known}; got 't5gema2'; did you mean 't5gemma2'"):
        families.config_from_hf({**fields, "model_type": "t5gema2"})


def test_only_t5gemma_2_has_tensors_of_zeros():
    shapes = {
        name: families.zeros(families.config_from_hf(gemma_models.config(name).to_dict()))
        for name in gemma_models.FAMILIES
    }
    assert shapes["t5gemma"] == shapes["t5gemma_unbalanced"] == {}
    assert shapes["t5gemma2"] == {"model.encoder.embed_tokens.eoi_embedding": (32,)}
