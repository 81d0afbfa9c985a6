"""The types and choices that are read from the source are those of the functions themselves."""

import importlib
import re
import typing

import pytest

from distill.api import signatures, value_checks, value_types
from distill.tasks import names
from distill.training import losses


def test_choices_are_those_of_the_modules():
    assert value_checks.of_argument("distill.tasks.names", "task_name", "form") == names.FORMS
    assert value_checks.of_argument("distill.training.losses", "TwoTaskLoss", "normalizer") == losses.NORMALIZERS
    assert value_checks.of_argument("distill.training.train", "LoopConfig", "on_nonfinite") == ("stop", "skip")
    assert value_checks.of_argument("distill.training.train", "LoopConfig", "seed") == ()


LITERALS = (
    *(None, True, 0, -1, 0.5, "", "one", "label", (), (1, 2), (0.5,), ("a",), [1], ["a"]),
    *({}, {"inputs": 512}, {"inputs": "long"}, {"train": "a.jsonl"}, {"train": ["a.jsonl"]}, {1: 2}),
)


@pytest.mark.parametrize(
    ("module", "name", "least"),
    [
        ("distill.training.config", "LoopConfig", 17),
        ("distill.training.config", "DataConfig", 7),
        ("distill.training.config", "ValidationConfig", 7),
        ("distill.training.losses", "TwoTaskLoss", 6),
        ("distill.training.optimizers", "adamw", 5),
        ("distill.training.train", "train", 8),
        ("distill.tasks.registration", "register", 15),
        ("distill.tasks.names", "task_name", 2),
        ("distill.tasks.jsonl", "dataset", 5),
        ("distill.model.config", "T5Config", 10),
    ],
)
def test_a_literal_is_refused_by_the_source_as_by_the_annotation_itself(module, name, least):
    hints = typing.get_type_hints(getattr(importlib.import_module(module), name))
    node, where = signatures.definition(module, name)
    read = 0
    for argument in signatures.arguments_of(module, name):
        found, _ = value_checks._rules(node, where, argument)
        if found is value_checks._UNREADABLE:
            continue
        read += 1
        for value in LITERALS:
            wanted = value_types.mismatch(value, hints[argument])
            if wanted is not None and re.search(
                r"PathLike|Sequence\[Callback", wanted
            ):  # items of such types are not read
                wanted = value_types.mismatch(value, found)
            assert (value_types.mismatch(value, found) is None) == (wanted is None), (argument, value, wanted)
    assert read >= least, (module, name, read)


@pytest.mark.parametrize(
    ("module", "name", "argument", "value", "expected"),
    [
        ("distill.training.losses", "TwoTaskLoss", "lam", "one", "expected float or function or None; got 'one' (str)"),
        (
            "distill.training.optimizers",
            "adamw",
            "learning_rate",
            "high",
            "expected float or function; got 'high' (str)",
        ),
        ("distill.training.train", "train", "mesh", 8, "expected MeshConfig; got 8 (int)"),
        ("distill.training.config", "LoopConfig", "profile_steps", 5, "expected tuple[int, int] or None; got 5 (int)"),
        ("distill.training.config", "LoopConfig", "seed", 0.5, "expected int; got 0.5 (float)"),
    ],
)
def test_the_message_of_a_value_of_the_wrong_type(module, name, argument, value, expected):
    node, where = signatures.definition(module, name)
    assert value_checks._problem(node, where, argument, value) == expected
