"""Names of T5Gemma's tensors."""

import pytest

from distill.checkpoints.huggingface import gemma_names
from distill.checkpoints.huggingface.gemma_config import config_from_hf
from distill.checkpoints.weights import flat_shapes
from tests.distill import gemma_models


@pytest.mark.parametrize("family", gemma_models.FAMILIES)
def test_every_parameter_has_one_tensor_of_its_shape(family):
    config = config_from_hf(gemma_models.config(family).to_dict())
    entries = list(gemma_names.entries(config))
    shapes = {"/".join(e.path): e.shape[::-1] if e.transposed else e.shape for e in entries}
    assert shapes == flat_shapes(config)
    assert len({entry.name for entry in entries}) == len(entries)


def test_names_that_hold_the_same_tensor():
    second = config_from_hf(gemma_models.config("t5gemma2").to_dict())
    first = config_from_hf(gemma_models.config("t5gemma").to_dict())
    untied = config_from_hf(gemma_models.config("t5gemma_unbalanced").to_dict())
    table, head = gemma_names.ENCODER_TABLE, gemma_names.LM_HEAD
    assert gemma_names.held_names(second, table, {head, "other"}) == (head,)
    assert gemma_names.held_names(first, table, {head, table}) == (table,)
    assert gemma_names.held_names(first, gemma_names.DECODER_TABLE, {head}) == (head,)
    assert gemma_names.held_names(untied, gemma_names.DECODER_TABLE, {head}) == ()
    inner = "model.encoder.text_model.norm.weight"
    assert gemma_names.held_names(second, "model.encoder.norm.weight", {inner}) == (inner,)


def test_tensors_of_images():
    assert gemma_names.is_vision("model.encoder.vision_tower.post_layernorm.bias")
    assert gemma_names.is_vision("model.encoder.multi_modal_projector.mm_soft_emb_norm.weight")
    assert gemma_names.is_vision("model.encoder.embed_tokens.eoi_embedding")
    assert not gemma_names.is_vision("model.encoder.embed_tokens.weight")
