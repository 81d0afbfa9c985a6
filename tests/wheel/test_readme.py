"""README's first section with an installed wheel, in an empty folder: each command ends with 0, the last prints answers."""

import json

import pytest

import readme_commands
from distill.cli import parser as command_line
from readme_commands import ROOT

# A training that is as short as can be; the files and flags are README's, and rows of `example`, but few of them.
FEW = ["--train_rows=200"]
SHORT = ["--gin.TRAIN_STEPS=4", "--gin.EVAL_PERIOD=4", "--gin.optimizers.linear_decay.warmup_steps=1"]


def infer_flags():
    """README relies on ``infer`` reading the field from the run. Where the flag has a default, the field is given."""
    given = ["infer", "--input=x", "--output=y"]
    return ["--input_field=question"] if command_line.parser("infer").parse_args(given).input_field else []


def test_the_first_section_in_an_empty_folder(tmp_path, installed):
    given = list(readme_commands.commands(readme_commands.section((ROOT / "README.md").read_text(encoding="utf-8"))))
    assert [words[:2] for words in given] == [
        ["pip", "install"], ["distill", "example"], ["distill", "train"], ["distill", "eval"], ["distill", "infer"],
        ["cat", "answers.jsonl"],
    ]  # fmt: skip
    added = {"example": FEW, "train": SHORT, "infer": infer_flags()}
    # Programs are compiled as a user's, by the code generator that XLA has by default and with its optimizations.
    environment = {"PYTHONPATH": "", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    runner = [str(installed.folder / "bin" / "distill")]
    wrote, _, scores, _, answers = readme_commands.run(given, tmp_path, runner, added, environment)
    # The command that `example` prints is the one that README gives next.
    assert wrote.splitlines()[-1].removeprefix("next: ").split() == given[2]
    assert "test accuracy: " in scores
    found = [json.loads(line) for line in answers.splitlines()]
    assert [(each["line"], each["id"]) for each in found] == [(1, 1), (2, 2), (3, 3)]
    for each in found:
        assert set(each) == {"line", "id", "label", "score"}
        assert isinstance(each["label"], str)
        assert each["score"] < 0


def test_commands_are_read_as_a_shell_does():
    page = "## One\n```sh\na b \\\n  c  # d\n\ne 'f g'\n```\n```\nno command\n```\n## Two\n```sh\nh\n```\n"
    assert list(readme_commands.commands(readme_commands.section(page))) == [["a", "b", "c"], ["e", "f g"]]
    assert list(readme_commands.commands(readme_commands.section(page, 2))) == [["h"]]


def test_a_command_that_fails_or_is_unknown_is_noticed(tmp_path):
    with pytest.raises(AssertionError, match="cat absent ended with 1:\ncat: absent: No such file"):
        readme_commands.run([["cat", "absent"]], tmp_path, [], {}, {})
    with pytest.raises(ValueError, match="README runs 'rm'"):
        readme_commands.run([["rm", "x"]], tmp_path, [], {}, {})
    assert readme_commands.run([["pip", "install", "."]], tmp_path, [], {}, {}) == []
