"""JSON items of a checkpoint step: good ones pass, every bad one is named with its file."""

import json

import pytest
from etils import epath

from distill.checkpoints import schemas
from distill.checkpoints.digests import Damaged

POSITION = {"seed": -3, "draws": 5, "consumed": {"a": 2, "b": 3}, "data": {"a": "abc"}}
PROGRESS = {"best": 0.5, "best_step": 10, "stale": 0, "examples": 40, "seconds": 1, "stopped": None, "other": [1]}
MODEL = {
    "vocab_size": 8, "embed_dim": 4, "num_heads": 2, "head_dim": 2, "mlp_dim": 4, "mlp_activations": ["gelu", "linear"],
    "dropout_rate": 0.1, "scan_layers": False,
}  # fmt: skip
GOOD = {"position": POSITION, "progress": PROGRESS, "model": MODEL, "metrics": {"accuracy": 50, "f1": 0.5}}


@pytest.mark.parametrize("item", GOOD)
def test_good_items_are_read_from_orbaxs_files(tmp_path, item):
    file = tmp_path / item / ("metrics" if item == "metrics" else "metadata")
    file.parent.mkdir()
    file.write_text(json.dumps(GOOD[item]))
    assert schemas.read_json(epath.Path(tmp_path), item) == GOOD[item]


@pytest.mark.parametrize(
    "item, changes, message",
    [
        ("position", {"seed": 1.5}, "seed must be an integer; got 1.5"),
        ("position", {"draws": -1}, "draws must be ≥ 0; got -1"),
        ("position", {"draws": True}, "draws must be an integer; got True"),
        ("position", {"draws": 6}, "draws must be the sum of consumed, 5; got 6"),
        ("position", {"consumed": [2, 3]}, "consumed must be a JSON object"),
        ("position", {"consumed": {"a": "5"}}, "consumed['a'] must be an integer"),
        ("position", {"data": {"a": 1}}, "data['a'] must be text; got 1"),
        ("position", {"extra": 1}, "unknown ['extra']"),
        ("position", {"curriculum": 3}, "curriculum must be a JSON object"),
        ("progress", {"best_step": -1}, "best_step must be ≥ 0"),
        ("progress", {"best": "high"}, "best must be a number; got 'high'"),
        ("progress", {"seconds": True}, "seconds must be a number"),
        ("progress", {"higher_is_better": 1}, "higher_is_better must be true or false; got 1"),
        ("progress", {"scores_differ": 1}, "scores_differ must be true or false; got 1"),
        ("progress", {"validations": -1}, "validations must be ≥ 0"),
        ("progress", {"reason": ["flat"]}, "reason must be text or null; got ['flat']"),
        ("progress", {"stopped": 3}, "stopped must be text or null; got 3"),
        ("model", {"embed_dim": -4}, "embed_dim must be ≥ 0"),
        ("model", {"vocab_size": 8.0}, "vocab_size must be an integer"),
        ("model", {"mlp_activations": ["gelu", 1]}, "mlp_activations must be a plain setting"),
        ("model", {"extra": {}}, "extra must be a plain setting"),
        ("metrics", {"accuracy": "50"}, "accuracy must be a number"),
        ("metrics", {"accuracy": None}, "accuracy must be a number"),
    ],
)
def test_bad_values(item, changes, message):
    with pytest.raises(Damaged) as caught:
        schemas.check(item, {**GOOD[item], **changes}, "step/file")
    assert message in str(caught.value)
    assert str(caught.value).startswith("step/file")


@pytest.mark.parametrize("item, name", [("position", "seed"), ("position", "consumed"), ("model", "num_heads")])
def test_missing_keys(item, name):
    value = {key: value for key, value in GOOD[item].items() if key != name}
    with pytest.raises(Damaged, match=rf"missing.*{name}|{name} is missing"):
        schemas.check(item, value, "step/file")


@pytest.mark.parametrize("item", GOOD)
@pytest.mark.parametrize("value", [[], None, 3, "text"])
def test_every_item_is_an_object(item, value):
    with pytest.raises(Damaged, match="expected a JSON object"):
        schemas.check(item, value, "step/file")


@pytest.mark.parametrize("content", [None, "", "{", "\xff", "[" * 10**5, "[1]"])
def test_files_that_cannot_be_read(tmp_path, content):
    (tmp_path / "model").mkdir()
    if content is not None:
        (tmp_path / "model" / "metadata").write_bytes(content.encode("latin-1"))
    with pytest.raises(Damaged, match="model/metadata"):
        schemas.read_json(epath.Path(tmp_path), "model")
