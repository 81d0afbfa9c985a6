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


@pytest.mark.parametrize(
    ("module", "name", "argument", "expected"),
    [
        ("distill.training.config", "LoopConfig", "train_steps", "≥ 1"),  # of a loop over names
        (
            "distill.training.config",
            "LoopConfig",
            "lora_alpha",
            "a finite number > 0",
        ),  # of a class that it is passed to
        ("distill.training.optimizers", "adafactor", "learning_rate", "> 0"),  # of a helper
        ("distill.tasks.registration", "register", "soft_label_temperature", "a finite number > 0"),
        ("distill.model.t5gemma_config", "StackConfig", "head_dim", "an integer ≥ 1"),
        ("distill.model.t5gemma_config", "T5GemmaConfig", "final_logit_cap", "> 0 or None"),
    ],
)
def test_ranges_are_read_where_a_value_is_checked(module, name, argument, expected):
    found = signatures.definition(module, name)
    calls = {value_checks._constant(call.args[2], where) for call, where in value_checks._checks(*found, argument)}
    assert calls == {expected}
