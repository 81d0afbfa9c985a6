"""Values of Python that ``distill.from_gin`` and ``distill.train`` bind."""

import pathlib

import numpy as np
import pytest

import distill
from distill.api import gin_values
from distill.api.gin_files import ConfigurationError


def test_numbers_of_numpy_and_paths_are_bound_wherever_they_stand():
    files = [f"gin/{name}.gin" for name in ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")]
    given = {
        "MODEL_DIR": pathlib.Path("run"), "VOCABULARY_PATH": "bytes", "TEST_SPLIT": None, "LAMBDA": np.float64(0.25),
        "FILES": {"train": [pathlib.Path("a.jsonl")]}, "TRAIN_STEPS": np.int64(70),
        "TASK_FEATURE_LENGTHS": {"inputs": np.int32(48), "targets": np.int32(32)},
    }  # fmt: skip
    found = distill.from_gin(files, given).bindings
    assert found["FILES"] == {"train": ["a.jsonl"]} and found["MODEL_DIR"] == "run"
    assert found["TASK_FEATURE_LENGTHS"] == {"inputs": 48, "targets": 32}
    assert (found["LAMBDA"], found["TRAIN_STEPS"]) == (0.25, 70) and type(found["TRAIN_STEPS"]) is int


def test_values_are_written_as_gin_reads_them():
    assert gin_values.written("A", "@losses.f()") == "@losses.f()"
    assert gin_values.written("A", {"a": ("b", None, 0.5)}) == "{'a': ('b', None, 0.5)}"
    for odd in (object(), {1, 2}, float("nan"), ["a", len]):
        with pytest.raises(ConfigurationError, match=r"^--gin\.A must be a finite number, a text, or a list"):
            gin_values.written("A", odd)
