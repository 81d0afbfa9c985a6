"""The commands at the end of ``train``, ``sweep`` and ``demo``: they parse, and name the run's paths and field."""

import shlex
from pathlib import Path

import pytest

from distill.api import run
from distill.cli import next_steps, parser
from distill.inference import student as students
from distill.inference.decoder import DecodeConfig
from distill.model.config import T5Config
from tests_support import write_lines


def commands(lines):
    return [
        shlex.split(line.removeprefix("next: ").partition("  # ")[0]) for line in lines if line.startswith("next: ")
    ]


def test_a_trained_student_is_scored_served_and_exported(tmp_path, train_command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [word.partition("=")[2] for word in train_command if word.startswith("--gin_file=")]
    bindings = [word.removeprefix("--gin.") for word in train_command if word.startswith("--gin.")]
    made = run.configured(given, bindings)
    described, vocabulary = made.describe()
    Path(made.directory).mkdir()
    students.write(made.directory, described, vocabulary)
    lines = next_steps.after_training(made)
    assert lines[0] == f"student: {made.directory}"
    found = commands(lines)
    assert [words[:2] for words in found] == [["distill", "eval"], ["distill", "infer"], ["distill", "export"]]
    parsed = [parser.parser(words[1]).parse_args(words[1:]) for words in found]
    assert {options.model_dir for options in parsed} == {made.directory}
    assert parsed[0].split == "validation"  # TEST_SPLIT is None
    assert Path(parsed[1].input).is_file()
    assert not Path(parsed[2].output).exists()
    assert lines[2].endswith(f"# reads the field {described.input_field!r} of each row")


@pytest.mark.parametrize(
    ("fields", "rows", "changes", "said"),
    [
        ({"choices": "the options"}, None, {}, "; '--choices=the options' chooses among its choices"),
        ({}, {"q": "?", "choices": ["a", "b"]}, {}, "; --choices=choices chooses among its choices"),
        ({}, {"q": "?"}, {}, ""),
        ({}, None, {}, ""),
        ({"choices": "options"}, None, {"form": "single"}, ""),
        ({"choices": "options"}, None, {"answers": "choose"}, ", and chooses among the choices in its field 'options'"),
        ({}, None, {"answers": "choose", "choices": ["a", "b"]}, ", and chooses among the choices ['a', 'b']"),
    ],
)
def test_the_field_of_choices_is_named_where_the_student_can_choose(tmp_path, fields, rows, changes, said):
    if rows is not None:
        write_lines(tmp_path / "rows.jsonl", [rows])
    decode = DecodeConfig(**{name: value for name, value in changes.items() if name != "form"})
    described = students.Student(
        T5Config(384, 8, 1, 8, 8, 1, 1), "bytes", input_field="q", rows=students.RowFormat(fields), decode=decode,
        form=changes.get("form", "label"),
    )  # fmt: skip
    path = None if rows is None else str(tmp_path / "rows.jsonl")
    assert next_steps._reads(described, path) == f"reads the field 'q' of each row{said}"


def test_another_run_starts_from_a_pretrained_student(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n\n".join(f"passage {number} of the book has some words in it" for number in range(200))
    Path("book.txt").write_text(text)
    files = ["gin/models/t5_1_1_tiny.gin", "gin/runs/pretrain.gin", "gin/hardware/cpu.gin"]
    given = ["FILES = {'train': 'book.txt'}", "VOCABULARY_PATH = 'bytes'", "MODEL_DIR = 'runs/my book'"]
    made = run.configured(files, given)
    made.register()
    directory, start = next_steps.after_training(made)
    assert directory == "student: runs/my book"
    assert start.endswith("starts from it with '--gin.INITIAL_CHECKPOINT_PATH=runs/my book'")


def test_without_a_description_only_the_evaluation_follows(tmp_path):
    made = run.Run("", {}, {"model_dir": str(tmp_path / "a b")}, {})
    assert commands(next_steps.after_training(made)) == [
        ["distill", "eval", f"--model_dir={tmp_path / 'a b'}", "--split=test"]
    ]


def test_a_sweep_is_reported_on_unless_quiet(capsys):
    lines = next_steps.after_sweep(Path("sweeps/my rates"))
    assert commands(lines) == [["distill", "report", "sweeps/my rates"]]
    next_steps.show(lines, quiet=True)
    next_steps.show(lines, quiet=False)
    assert capsys.readouterr().err == (
        "next: distill report 'sweeps/my rates'  # writes the report anew, with the options that you add\n"
    )


def test_rows_are_files_that_exist(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    train = str(tmp_path / "a.jsonl")
    assert next_steps._rows_of({"test": str(tmp_path / "*.jsonl"), "train": [train]}) == train
    assert next_steps._rows_of({"train": None}) is None and next_steps._rows_of("x") is None
    assert next_steps._export_folder("gs://b/runs/a/") == "a-exported"
