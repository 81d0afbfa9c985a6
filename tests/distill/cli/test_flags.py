"""Flags that are read off a function's signature and documentation."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Literal

import pytest

from distill.cli import flags


def sample(
    path: str,
    size: int = 3,
    loud: bool = False,
    extra: Sequence[str] = (),
    mode: Literal["a", "b"] = "a",
    limit: float | None = None,
):
    """Does something with ``path``.

    A second paragraph.

    Args:
      path: of :class:`some.module.Thing`; 100 % of it.
      size, limit: numbers
        on two lines.
    """  # fmt: skip
    return path, size, loud, extra, mode, limit


@pytest.fixture
def command():
    parser = argparse.ArgumentParser()
    flags.add(parser, sample)
    return parser


def test_values_have_the_types_of_the_annotations(command):
    given = ["--path=x", "--size=5", "--loud", "--extra=1", "--extra=2", "--mode=b", "--limit=0.5"]
    assert flags.call(sample, command.parse_args(given)) == ("x", 5, True, ["1", "2"], "b", 0.5)
    assert flags.call(sample, command.parse_args(["--path=x"])) == ("x", 3, False, [], "a", None)


@pytest.mark.parametrize(
    "given, message",
    [
        ([], "required: --path"),
        (["--path=x", "--size=big"], "invalid int value"),
        (["--path=x", "--mode=c"], "invalid choice"),
    ],
)
def test_mistakes(command, capsys, given, message):
    with pytest.raises(SystemExit):
        command.parse_args(given)
    assert message in capsys.readouterr().err


def test_help_has_descriptions_defaults_and_paragraphs(command):
    text = " ".join(command.format_help().split())
    for part in (
        "of Thing; 100 % of it",
        "numbers on two lines; default: 3",
        "may repeat",
        "Does something with path. A second paragraph.",
    ):
        assert part in text
    assert "Args:" not in text


def test_descriptions_of_dataclass_fields():
    @dataclasses.dataclass
    class Settings:
        """Settings.

        Attributes:
          one: the ``first``.
        """

        one: int = 1
        two: int = dataclasses.field(default=2, metadata={"help": "the second."})

    assert flags.documented(Settings) == {"one": "the first", "two": "the second"}
    assert flags.documented(len) == {}
