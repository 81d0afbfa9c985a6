"""Types and ranges of arguments, read from the source and compared with the annotations and checks themselves."""

import importlib
import re
import typing

import pytest

from distill.api import signatures, source_rules, value_types

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
        found = source_rules.type_of(node, where, argument)
        if found is source_rules.UNREADABLE:
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
    calls = {source_rules.constant(call.args[2], where) for call, where in source_rules.checks(*found, argument)}
    assert calls == {expected}
