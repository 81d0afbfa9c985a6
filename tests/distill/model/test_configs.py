"""Configurations of all families: to JSON and back, and what other code asks of any of them."""

import dataclasses
import json

import pytest

from distill.model import configs
from distill.model.config import T5Config
from distill.model.parameters import param_count
from tests.distill.model.test_t5gemma_config import FIRST, SECOND

T5 = T5Config(64, 32, 4, 8, 48, 2, 2)


@pytest.mark.parametrize("config", [T5, FIRST, SECOND], ids=configs.family)
def test_json_and_back(config):
    fields = json.loads(json.dumps(dataclasses.asdict(config)))
    assert configs.from_json(fields) == config
    assert configs.from_json(fields, dtype="bfloat16") == dataclasses.replace(config, dtype="bfloat16")


def test_json_that_is_no_configuration():
    fields = dataclasses.asdict(SECOND)
    with pytest.raises(TypeError, match="decoder must be an object; got 3"):
        configs.from_json({**fields, "decoder": 3})
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
        configs.from_json({**fields, "encoder": {**fields["encoder"], "width": 1}})


def test_families():
    assert [configs.family(config) for config in (T5, FIRST, SECOND)] == ["T5", "T5Gemma", "T5Gemma 2"]


def test_sizes_that_tensor_parallelism_divides():
    assert configs.tensor_parallel_sizes(T5) == (4, 48, 64)
    assert configs.tensor_parallel_sizes(SECOND) == (4, 4, 48, 48, 64)


SMALL = dataclasses.replace(
    FIRST, **{name: dataclasses.replace(getattr(FIRST, name), num_layers=1) for name in ("encoder", "decoder")}
)


@pytest.mark.parametrize(
    "config",
    [
        T5,
        dataclasses.replace(T5, logits_via_embedding=True),
        SMALL,
        dataclasses.replace(SMALL, logits_via_embedding=False),
    ],
)
def test_parameters_per_id(config):
    one_more = dataclasses.replace(config, vocab_size=config.vocab_size + 1)
    assert param_count(one_more) - param_count(config) == configs.parameters_per_id(config)
