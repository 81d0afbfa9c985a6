"""Every flag of every command says what it does; the help is quick; completion completes."""

import argparse
import ast
import functools
import pathlib
import re
import subprocess
import sys

import pytest

import distill
from distill.cli import flags, launch, main
from distill.cli import parser as command_line
from distill.tools.launch import job

ROOT = pathlib.Path(__file__).resolve().parents[3]


def subcommands(parser):
    (action,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return action.choices


WHOLE = command_line.parser("extract")
LAUNCH = launch.launch_parser()
PARSERS = {
    "distill": WHOLE,
    **{f"distill {name}": parser for name, parser in subcommands(WHOLE).items()},
    "distill launch": LAUNCH,
    **{f"distill launch {name}": parser for name, parser in subcommands(LAUNCH).items()},
}
every_parser = pytest.mark.parametrize("name", PARSERS)


@functools.cache
def class_names():
    """Names of the project's classes that are no words of English: two capitals at least."""
    names = {
        node.name
        for folder in ("distill", "tasks", "tools")
        for path in (ROOT / folder).glob("**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    words = {"SentencePiece"}  # a library, after which a class is named
    return {name for name in names if re.fullmatch(r"[A-Z]\w*[a-z]\w*[A-Z]\w*", name)} - words


def test_every_command_has_a_parser_and_the_other_way_round():
    assert set(subcommands(WHOLE)) == {*main.COMMANDS, "launch"}
    assert {*job.COMMANDS, "completion", "prompt"} == set(main.COMMANDS)


@every_parser
def test_every_flag_says_what_it_does(name):
    for action in PARSERS[name]._actions:
        if action.help == argparse.SUPPRESS:
            continue
        assert action.help and len(action.help) > 5, f"{name} {action.option_strings or action.dest} has no help"
        assert not action.help.startswith(("default:", "may repeat")), f"{name} {action.option_strings}: {action.help}"


@every_parser
def test_no_help_names_a_class_or_shows_markup(name):
    text = PARSERS[name].format_help()
    known = class_names()
    assert {"ExtractConfig", "ServerConfig"} <= known
    named = known & set(re.findall(r"\w+", text))
    assert not named
    assert "``" not in text and ":class:" not in text and ":func:" not in text


@pytest.mark.parametrize("name", subcommands(WHOLE))
def test_every_command_shows_an_example_that_parses(name):
    example = re.search(r"Example:\s+distill (.*)", subcommands(WHOLE)[name].format_help(), re.DOTALL)
    assert example, f"distill {name} --help shows no example"
    words = re.sub(r"\s*\\\n\s*", " ", example[1]).split("\n\n")[0].split(" > ")[0].split()
    assert words[0] == name
    if name == "launch":
        split = words.index("--")
        LAUNCH.parse_args(words[1:split])
        name, words = words[split + 1], words[split + 1 :]
    command_line.parser(name).parse_args(command_line.split_arguments(words))


def test_examples_name_files_that_ship():
    for parser in PARSERS.values():
        for file in re.findall(r"\bgin/[\w/]+\.\w+", parser.format_help()):
            assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["train", "--help"]])
def test_help_and_version_are_quick_and_import_neither_jax_nor_tensorflow(arguments):
    program = (
        "import sys, time\nfrom distill.cli import main\ntry:\n  main.main(sys.argv[1:])\nexcept SystemExit as done:\n"
        "  assert done.code == 0\n"
        "print(time.process_time(), sorted({'jax', 'tensorflow', 'flax', 'seqio', 'numpy'} & set(sys.modules)))\n"
    )
    best = float("inf")
    for _ in range(3):  # processor time, since the machine may be busy; the quickest counts
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
        seconds, _, last = done.stdout.splitlines()[-1].partition(" ")
        best = min(best, float(seconds))
        assert last == "[]"
    assert best < 0.5
    if arguments == ["--version"]:
        assert done.stdout.splitlines()[0] == f"distill {distill.__version__}"


def test_descriptions_come_from_docstrings_and_metadata():
    import dataclasses

    @dataclasses.dataclass
    class Settings:
        """Some settings.

        Attributes:
          one: first line
            and second line.
          two, three: of :class:`distill.x.Y` and ``four``.

        More text.
        """

        one: int
        two: int = 2
        three: int = 3
        four: int = dataclasses.field(default=4, metadata={"help": "by metadata"})

    assert flags.documented(Settings) == {
        "one": "first line and second line",
        "two": "of Y and four",
        "three": "of Y and four",
        "four": "by metadata",
    }
    parser = argparse.ArgumentParser()
    flags.add(parser, Settings)
    helps = {action.dest: action.help for action in parser._actions}
    assert helps["two"] == "of Y and four; default: 2"
    assert parser.epilog == "Some settings."
    assert parser.parse_args(["--one=7"]).one == 7


def test_messages_and_docstrings_name_gin_files_that_exist():
    for folder in ("distill", "tasks", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"\bgin/[a-z0-9_/]+\.(?:gin|json)\b", path.read_text(encoding="utf-8")):
                assert (ROOT / name).is_file(), f"{path.relative_to(ROOT)} names {name}, which is not there"
