"""The types and choices that are read from the source are those of the functions themselves."""

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
    ("module", "name", "argument", "value", "expected"),
    [
        (
            "distill.training.losses",
            "TwoTaskLoss",
            "lam",
            "one",
            "expected float or function or None; got 'one' (str); give a number, as in 0.1",
        ),
        (
            "distill.training.optimizers",
            "adamw",
            "learning_rate",
            "high",
            "expected float or function; got 'high' (str); give a number, as in 0.1",
        ),
        ("distill.training.train", "train", "mesh", 8, "expected MeshConfig; got 8 (int)"),
        (
            "distill.training.config",
            "LoopConfig",
            "profile_steps",
            5,
            "expected tuple[int, int] or None; got 5 (int); give a tuple, as in (1, 2)",
        ),
        (
            "distill.training.config",
            "LoopConfig",
            "seed",
            0.5,
            "expected int; got 0.5 (float); give a whole number, as in 100",
        ),
    ],
)
def test_the_message_of_a_value_of_the_wrong_type(module, name, argument, value, expected):
    node, where = signatures.definition(module, name)
    others = value_checks._Others(None, "", name, node, called=False)
    assert value_checks._problem(node, where, argument, value, others) == (expected, None)
