"""Arguments are read from source files as Python itself sees them, and mistakes suggest the nearest name."""

import dataclasses
import inspect
from pathlib import Path

import pytest

from distill.api import signatures, statement_checks
from distill.data.packing import Layout
from distill.model.config import T5Config
from distill.sharding.partitioning import MeshConfig
from distill.tasks import registration
from distill.training import config, losses, optimizers

IMPORTS = (
    "from __gin__ import dynamic_registration\nfrom distill.training import train\nfrom distill.model import network\n"
)
ROOT = Path(__file__).parents[3]


def problems(tmp_path, text):
    (tmp_path / "a.gin").write_text(IMPORTS + text)
    return list(signatures.problems(statement_checks._scanned(["a.gin"], [], [str(tmp_path)])))


@pytest.mark.parametrize(
    "known", [T5Config, MeshConfig, Layout, config.LoopConfig, config.ValidationConfig, losses.TwoTaskLoss]
)
def test_fields_of_dataclasses(known):
    fields = tuple(field.name for field in dataclasses.fields(known))
    assert signatures.arguments_of(known.__module__, known.__name__) == fields


@pytest.mark.parametrize("known", [registration.register, optimizers.adamw, optimizers.linear_decay])
def test_arguments_of_functions(known):
    assert signatures.arguments_of(known.__module__, known.__name__) == tuple(inspect.signature(known).parameters)


def test_a_name_that_a_module_imports():
    assert signatures.arguments_of("distill.training.train", "LoopConfig") == signatures.arguments_of(
        "distill.training.config", "LoopConfig"
    )


def test_what_the_source_does_not_tell():
    for module, name in (
        ("distill.model.network", "T5"),  # a Flax module
        ("distill.tasks.teachers", "joined"),  # takes any argument
        ("optax", "adamw"),
        ("distill.nowhere", "f"),
    ):
        assert signatures.arguments_of(module, name) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train.LoopConfig.train_stepss = 1",
            "train.LoopConfig has no argument 'train_stepss'; did you mean 'train_steps'",
        ),
        ("train.LoopConfig:\n  qqqqq = 1", "train.LoopConfig has no argument 'qqqqq'; it has train_steps, "),
        ("train.LopConfig.seed = 1", "distill.training.train defines no 'LopConfig'; did you mean 'train.LoopConfig'?"),
        ("LoopConfig.seed = 1", "no gin file imports 'LoopConfig'; did you mean 'train.LoopConfig'?"),
        ("tran.LoopConfig.seed = 1", "no gin file imports 'tran'; did you mean 'train.LoopConfig'?"),
    ],
)
def test_mistakes(tmp_path, text, message):
    (line,) = problems(tmp_path, text)
    assert message in line and "(set in a.gin:" in line


def test_every_binding_of_the_shipped_files_is_right():
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "gin").rglob("*.gin")) if "t5x" not in path.parts]
    checked = 0
    for file in files:
        scan = statement_checks._scanned([file], [], ["", str(ROOT)])
        assert not list(signatures.problems(scan)), file
        checked += len(scan.arguments)
    assert checked > 1000
