"""Values of the wrong type end in one line that names the macro or argument, what it got and what it takes."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest

from distill.api import configuration, value_types
from distill.api.configuration import ConfigurationError

JSONL = ["gin/models/t5_1_1_tiny.gin", "gin/tasks/jsonl.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
GIVEN = ["MODEL_DIR = 'm'", "VOCABULARY_PATH = 'bytes'", "DATASET_NAME = 'd'", "FILES = {'train': 'a.jsonl'}"]


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("PATIENCE = none", "PATIENCE (set in the command line), as train.ValidationConfig.patience: expected int or None; "
         "got 'none' (str); write None"),
        ("EMA_DECAY = none", "EMA_DECAY (set in the command line), as train.LoopConfig.ema_decay: expected float or None; "
         "got 'none' (str); write None"),
        ("BATCH_SIZE = 8.0", "BATCH_SIZE (set in the command line), as train.DataConfig.batch_size: expected int; "
         "got 8.0 (float); write 8"),
        ("Z_LOSS = on", "Z_LOSS (set in the command line), as losses.TwoTaskLoss.z_loss: expected float; got 'on' (str); "
         "give a number, as in --gin.Z_LOSS=0.1"),
        ("RANDOM_SEED = abc", "RANDOM_SEED (set in the command line), as train.LoopConfig.seed: expected int; "
         "got 'abc' (str); give a whole number, as in --gin.RANDOM_SEED=100"),
        ("FORM = 5", "FORM (set in the command line), as names.task_name.form: expected str; got 5 (int); "
         "a text needs quotes: --gin.FORM='\"5\"'"),
        ("TASK_FEATURE_LENGTHS = 64", "TASK_FEATURE_LENGTHS (set in the command line), as "
         "train.DataConfig.task_feature_lengths: expected Mapping[str, int]; got 64 (int); give a dict, as in "
         "--gin.TASK_FEATURE_LENGTHS='{\"NAME\": VALUE}'"),
        ("train.LoopConfig.train_steps = '7'", "train.LoopConfig.train_steps (set in the command line): expected int; "
         "got '7' (str); remove the quotes"),
        ("MODEL = @partitioning.MeshConfig()", "MODEL (set in the command line), as train.train.model: expected T5Config "
         "or T5GemmaConfig; got MeshConfig"),
    ],
)  # fmt: skip
def test_one_line_for_each(binding, message):
    with pytest.raises(ConfigurationError) as caught:
        configuration.parse(JSONL, [*GIVEN, binding])
    assert str(caught.value).splitlines()[0] == message


def test_a_file_is_named_with_its_line(tmp_path):
    (tmp_path / "mine.gin").write_text("# x\nBATCH_SIZE = [8]\n")
    with pytest.raises(ConfigurationError) as caught:
        configuration.parse([*JSONL, str(tmp_path / "mine.gin")], GIVEN)
    assert f"BATCH_SIZE (set in {tmp_path}/mine.gin:2), as train.DataConfig.batch_size: expected int" in str(
        caught.value
    )
    assert str(caught.value).endswith("; give a whole number, as in BATCH_SIZE = 100")


def test_files_that_are_no_paths():
    configuration.parse(JSONL, [*GIVEN[:-1], "FILES = {'train': ['a.jsonl', 'b.jsonl']}"])
    with pytest.raises(
        ConfigurationError, match=r"^FILES \(set in the command line\), as jsonl.dataset.*got \{'train': \["
    ):
        configuration.parse(JSONL, [*GIVEN[:-1], "FILES = {'train': ['a.jsonl', 3]}"])


def test_a_macro_that_is_used_twice_is_one_line():
    with pytest.raises(ConfigurationError, match=r"^TRAIN_STEPS \(set in the command line\), as [^\n]*$"):
        configuration.parse(JSONL, [*GIVEN, "TRAIN_STEPS = 'many'"])


def test_several_at_once():
    with pytest.raises(ConfigurationError) as caught:
        configuration.parse(JSONL, [*GIVEN, "BATCH_SIZE = 'x'", "RANDOM_SEED = 1.5"])
    assert {line.split(" ")[0] for line in str(caught.value).splitlines()} == {"BATCH_SIZE", "RANDOM_SEED"}


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, float), (1.0, float | None), (None, float | None), (True, bool), ("a", str), ("a", Any), (True, Any),
        ("a", object),
        ("x", Literal["x", "y"]), ({"a": 1}, Mapping[str, int]), (["a"], Sequence[str]), (("a", 1), tuple[str, int]),
        (len, Callable[..., int]), (pathlib.Path("a"), str | pathlib.Path), ("a", str | Sequence[str]),
        (value_types.Unknown(len), int),
        ([value_types.Unknown(len)], Sequence[str]),
    ],
)  # fmt: skip
def test_what_fits(value, hint):
    assert value_types.mismatch(value, hint) is None


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1.0, int, "int"), (True, int, "int"), (True, float | None, "float or None"), ("a", Sequence[str], "Sequence[str]"),
        ("z", Literal["x", "y"], "one of 'x', 'y'"), ({"a": "1"}, Mapping[str, int], "Mapping[str, int]"),
        (None, int, "int"),
        ("a", Callable[..., int], "function"), (3, str | pathlib.Path, "str or Path"), ((1, 2), dict, "dict"),
        (["a", 1], Sequence[str], "Sequence[str]"), ("true", bool, "bool"),
    ],
)  # fmt: skip
def test_what_does_not(value, hint, expected):
    assert value_types.mismatch(value, hint).startswith(f"expected {expected}; got ")


def test_every_value_of_a_dataclass_counts_and_unreadable_annotations_do_not():
    def broken(a: "NoSuchType"):  # noqa: F821
        return a

    assert value_types.annotations(broken) == {}
    assert value_types.mismatch("true", bool).endswith("; write True")


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["MODEL_DIR = ~/runs/a", "VOCABULARY_PATH = 'bytes'", "DATASET_NAME = 'd'"]
    configuration.parse(
        JSONL, [*given, "FILES = {'train': '~/a.jsonl'}", "INITIAL_CHECKPOINT_PATH = ~/b", "LABEL_PREFIX = '~ '"]
    )
    assert configuration.macro("MODEL_DIR") == f"{tmp_path}/runs/a"
    assert configuration.macro("FILES") == {"train": f"{tmp_path}/a.jsonl"}
    assert configuration.macro("INITIAL_CHECKPOINT_PATH") == f"{tmp_path}/b"
    assert configuration.macro("LABEL_PREFIX") == "~ "
    assert "~/" not in configuration.resolved()
    (tmp_path / "mine.gin").write_text("TRAIN_STEPS = 3\n")
    configuration.parse([*JSONL, "~/mine.gin"], [*given, "FILES = {'train': 'a'}"])
    with pytest.raises(ValueError, match=r"there is no user 'nobody-of-that-name' on this machine"):
        configuration.parse(JSONL, [*given[1:], "FILES = {'train': 'a'}", "MODEL_DIR = ~nobody-of-that-name/x"])


def test_shipped_files_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = configuration.find("gin/sweeps/demo.yaml")
    assert pathlib.Path(found).is_file()
    assert configuration.find("sweeps/demo.yaml") == found
    with pytest.raises(
        ConfigurationError, match=r"no yaml file 'gin/sweeps/dmeo.yaml'; did you mean 'gin/sweeps/demo.yaml'"
    ):
        configuration.find("gin/sweeps/dmeo.yaml")
    (tmp_path / "gin" / "models").mkdir(parents=True)
    (tmp_path / "gin" / "models" / "t5_1_1.gin").write_text("# mine\nMINE = 1\nTHEIRS = %MINE\nTHEIRS2 = %THEIRS\n")
    with pytest.raises(ConfigurationError, match="nothing uses THEIRS2"):
        configuration.parse(
            ["gin/models/t5_1_1_tiny.gin"], []
        )  # a user's own folder gin/ comes first, also for include
