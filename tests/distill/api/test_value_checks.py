"""The types and choices that are read from the source are those of the functions themselves."""

import importlib
import typing

import pytest

from distill.api import signatures, value_checks
from distill.tasks import names
from distill.training import losses


def test_choices_are_those_of_the_modules():
    assert value_checks.of_argument("distill.tasks.names", "task_name", "form") == names.FORMS
    assert value_checks.of_argument("distill.training.losses", "TwoTaskLoss", "normalizer") == losses.NORMALIZERS
    assert value_checks.of_argument("distill.training.train", "LoopConfig", "on_nonfinite") == ("stop", "skip")
    assert value_checks.of_argument("distill.training.train", "LoopConfig", "seed") == ()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("distill.training.config", "LoopConfig"),
        ("distill.training.config", "DataConfig"),
        ("distill.training.config", "ValidationConfig"),
        ("distill.tasks.registration", "register"),
        ("distill.tasks.jsonl", "dataset"),
        ("distill.model.config", "T5Config"),
    ],
)
def test_every_type_that_is_read_is_that_of_the_annotation(module, name):
    hints = typing.get_type_hints(getattr(importlib.import_module(module), name))
    node, where = signatures.definition(module, name)
    read = 0
    for argument in signatures.arguments_of(module, name):
        annotation = value_checks._annotation(node, argument)
        found = value_checks._type(annotation, where)
        if found is not value_checks._UNREADABLE:
            read += 1
            assert found == hints[argument], argument
    assert read >= 3, (module, name)
