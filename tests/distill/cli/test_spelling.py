"""A mistake on the command line is one line, which names the nearest command, flag or macro."""

import argparse
import errno
import io
import os

import pytest

from distill import exit_codes
from distill.cli import main, spelling


class Full(io.StringIO):
    """A standard output on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("words", ["--help", "train --help", "--version"])
def test_help_that_cannot_be_written_is_an_error(words, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", Full())
    assert main.main(words.split()) == exit_codes.MACHINE
    assert "No space left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "distill: there is no command 'trian'; did you mean 'train'?"),
        ("teacher --inputs=a", "distill: there is no command 'teacher'; did you mean 'extract'?"),
        ("Evaluate", "distill: there is no command 'Evaluate'; did you mean 'eval'?"),
        ("serving", "distill: there is no command 'serving'; did you mean 'infer'?"),
        ("train --model_dir=runs/a", "distill train: there is no flag --model_dir; write --gin.MODEL_DIR=runs/a"),
        ("train --batch-size 8", "distill train: there is no flag --batch-size; write --gin.BATCH_SIZE=8"),
        ("train --train_step=8", "distill train: there is no flag --train_step; write --gin.TRAIN_STEPS=8"),
        ("train --gin.MODEL_DIR", "distill train: --gin.MODEL_DIR has no value; write --gin.MODEL_DIR=VALUE"),
        ("train --gin.MODEL_DIR runs/a", "distill train: --gin.MODEL_DIR has no value; write --gin.MODEL_DIR=runs/a"),
        ("eval --slpit=test", "distill eval: there is no flag --slpit; did you mean '--split'?"),
        ("eval --choices=options", f"distill eval: there is no flag --choices; {spelling._CHOOSE}"),
        ("train --choices options", f"distill train: there is no flag --choices; {spelling._CHOOSE}"),
        (
            "eval --rationale",
            "there is no flag --rationale; --gin.EVAL_FORM=rationale scores rationales, which need a larger "
            "--gin.MAX_DECODE_LEN",
        ),
        ("infer --input=a --ouput=b", "--output; --ouput is no flag, did you mean '--output'?"),
        (
            "example --output=a --gin.X=1",
            "distill example: --gin.X=1 does not apply: distill example reads no gin files; "
            "distill example --help lists the flags",
        ),
        (
            "train --gin_fil=a.gin",
            "there is no flag --gin_fil; did you mean '--gin_file'?",
        ),
        (
            "export --output=a --format=hugingface",
            "distill export: --format must be one of hf, ct2, t5x; got 'hugingface'; did you mean 'hf'?",
        ),
        (
            "export --output=a --format=onnx",
            "--format must be one of hf, ct2, t5x; got 'onnx'; distill export --help lists the flags",
        ),
        ("data --answer=equatoin", "got 'equatoin'; did you mean 'equation'?"),
        ("train more", "distill train: unexpected argument more; distill train --help lists the flags"),
        ("launch gclod", "distill launch: there is no command 'gclod'; did you mean 'gcloud'?"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_word(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(words.split())
    assert ended.value.code == exit_codes.MISTAKE
    error = capsys.readouterr().err
    assert error.endswith(message + "\n") and error.count("\n") == 1


def small_parser():
    whole = spelling.Parser(prog="prog")
    commands = whole.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--output", required=True)
    run.add_argument("--hidden", help=argparse.SUPPRESS)
    return whole


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "prog run: the following arguments are required: --output; prog run --help lists the flags"),
        (["rum"], "prog: there is no command 'rum'; did you mean 'run'?"),
        (["run", "--output=a", "--hiden=3"], "prog run: there is no flag --hiden=3; prog run --help lists the flags"),
        (
            ["run", "--output=a", "--gin.A=3"],
            "prog run: --gin.A=3 does not apply: prog run reads no gin files; prog run --help lists the flags",
        ),
    ],
)
def test_any_parser_ends_in_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        small_parser().parse_args(words)
    assert ended.value.code == exit_codes.MISTAKE
    assert capsys.readouterr().err == message + "\n"


def test_other_words_lead_to_commands():
    assert set(spelling._OTHER_WORDS) <= set(main.COMMANDS) and not set(spelling._MEANT) & set(main.COMMANDS)


def test_a_word_for_a_command_that_the_parser_lacks(capsys):
    with pytest.raises(SystemExit):
        small_parser().parse_args(["teacher"])
    assert capsys.readouterr().err == "prog: there is no command 'teacher'; prog --help lists the commands\n"


def test_macros_are_those_of_the_shipped_files():
    macros = spelling._macros()
    assert {"MODEL_DIR", "TRAIN_STEPS", "FILES"} <= macros
    assert all(name == name.upper() for name in macros)


def test_a_misspelt_flag_without_a_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["--verison"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("distill: there is no flag --verison; did you mean '--version'?")
