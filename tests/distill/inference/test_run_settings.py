"""Which differences of two configurations change the student."""

import pytest

from distill.inference.run_settings import Difference, differences


def one(name, before, after):
    (found,) = differences({name: before}, {name: after})
    return found


@pytest.mark.parametrize(
    "name",
    ["MESH", "DATA_DIR", "NUM_MICROBATCHES", "train.LoopConfig.log_period", "train.DataConfig.cache_dir",
     "manager.CheckpointConfig.period", "partitioning.MeshConfig.fsdp", "vocabularies.load.name", "TEST_SPLIT"],
)  # fmt: skip
def test_settings_that_the_student_does_not_depend_on(name):
    assert not one(name, 1, 2).student


@pytest.mark.parametrize(
    "name",
    ["LEARNING_RATE", "BATCH_SIZE", "LAMBDA", "network.T5Config.embed_dim", "RANDOM_SEED", "train.LoopConfig.seed"],
)
def test_settings_that_the_student_depends_on(name):
    assert one(name, 1, 2).student


@pytest.mark.parametrize("name", ["FILES", "jsonl.dataset.files"])
def test_files_may_move_but_not_be_others(name):
    before = {"train": "/a/train.jsonl", "test": "/a/test.jsonl"}
    assert not one(name, before, {"train": "gs://b/train.jsonl", "test": "test.jsonl"}).student
    assert one(name, before, {**before, "train": "/a/other.jsonl"}).student
    assert one(name, before, {"train": "/a/train.jsonl"}).student
    assert one(name, before, "/a/train.jsonl").student


def test_every_file_of_a_list_counts():
    before = {"train": "train.jsonl", "validation": ["v/x.jsonl", "v/y.jsonl"]}
    assert one("FILES", before, {**before, "validation": ["other/EASY.jsonl", "v/y.jsonl"]}).student
    assert one("FILES", before, {**before, "validation": ["v/y.jsonl", "v/x.jsonl"]}).student
    assert one("FILES", before, {**before, "validation": "v/y.jsonl"}).student
    assert not one("FILES", before, {"train": ["a/train.jsonl"], "validation": ("w/x.jsonl", "w/y.jsonl")}).student


def test_those_of_the_student_come_first_and_equal_ones_are_left_out():
    found = differences({"MESH": 1, "SAME": 5, "LAMBDA": 0.5}, {"LAMBDA": 1.0, "SAME": 5, "MESH": 2, "NEW": 3})
    assert [difference.name for difference in found] == ["LAMBDA", "NEW", "MESH"]


def test_none_and_absent_are_alike():
    assert differences({"EMA": None}, {}) == []
    assert differences({}, {"NEW": None, "train.LoopConfig.new": "%NEW"}) == []
    assert [one.name for one in differences({}, {"NEW": 2, "train.LoopConfig.new": "%NEW"})] == [
        "NEW",
        "train.LoopConfig.new",
    ]
    before, after = ({"LAMBDA": value, "losses.TwoTaskLoss.lam": "%LAMBDA"} for value in (0.5, None))
    assert [one.name for one in differences(before, after)] == ["LAMBDA"]
    assert str(one("EMA", None, 0.9)) == "EMA was not set and is now 0.9"
    assert str(one("NAME", "a", "b")) == "NAME was 'a' and is now 'b'"


@pytest.mark.parametrize(
    "name, before, after, expected",
    [
        ("TRAIN_STEPS", 10, 20, True),
        ("train.LoopConfig.train_steps", 10, 20, True),
        ("TRAIN_STEPS", 20, 10, False),
        ("TRAIN_STEPS", None, 10, False),
        ("BATCH_SIZE", 10, 20, False),
    ],
)
def test_only_more_steps_raise_the_steps(name, before, after, expected):
    assert Difference(name, before, after, True).raises_steps is expected
