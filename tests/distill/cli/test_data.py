"""``distill data`` on files, on gin configurations and on the paper's layout."""

import gzip
import json
import pathlib
import subprocess
import sys

import pytest

from distill.cli.main import main
from distill.tasks import jsonl, splits

ROWS = [{"q": f"{n} yews: tree or bird?", "w": "A yew is a tree.", "a": "tree"} for n in range(30)]
FIELDS = {"input": "q", "rationale": "w", "label": "a"}
FLAGS = [f"--field={name}={field}" for name, field in FIELDS.items()] + ["--vocabulary=bytes", "--json"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "{broken\n")
    pathlib.Path("test.json.gz").write_bytes(gzip.compress(json.dumps(ROWS[:3]).encode()))
    return tmp_path


def report(capsys, *flags):
    assert main(["data", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def error(capsys, *flags):
    assert main(["data", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_nothing_is_cut_in_a_pipe(folder, capsys, monkeypatch):
    """A terminal has 80 columns here, and a pipe has none."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["data", "--file=train=train.jsonl", *[flag for flag in FLAGS if flag != "--json"]]) == 0
    printed = capsys.readouterr().out
    assert "rationale targets" in printed and "train+validation" in printed
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) > 100


def test_errors_on_files_name_the_flag(folder, capsys):
    told = error(capsys, "--file=train=train.jsonl", "--vocabulary=bytes")
    assert (
        "no row has the field 'input'; --field=input=FIELD maps it to a field of the rows (the rows have: a, q, w)"
        in told
    )
    assert "FIELDS" not in told
    assert "did you mean 'input'?" in error(capsys, "--file=train=train.jsonl", "--field=inptu=q", "--vocabulary=bytes")


def test_failures_are_listed_once_and_with_their_text(folder, capsys):
    pathlib.Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{broken\n{"q": ""}\n')
    given = [flag for flag in FLAGS if flag != "--json"]
    assert main(["data", "--file=train=train.jsonl", *given, "--failures", "--inputs=10"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("train.jsonl:31  not valid JSON — '{broken'") == 1
    assert printed.count("train.jsonl:32  ") == 1
    assert printed.count("train.jsonl:1  truncated: label input") == 1


def test_files_on_the_command_line(folder, capsys):
    found = report(capsys, "--file=train=train.jsonl", "--file=test=test.json.gz", *FLAGS, "--targets=10")
    assert found["vocabulary_size"] == 384
    assert found["lengths"] == {"inputs": 512, "targets": 10}
    by_split = found["sets"]["jsonl"]
    assert {split: each["rows"] for split, each in by_split.items()} == {
        "train+validation": 30,
        "train": 30 - by_split["validation"]["rows"],
        "validation": by_split["validation"]["rows"],
        "test": 3,
    }
    assert by_split["train"]["rejected"] == 1
    assert by_split["test"]["with_label"] == by_split["test"]["with_rationale"] == 3
    assert by_split["test"]["lengths"]["label_inputs"]["p100"] == len("[label] 0 yews: tree or bird?") + 1
    assert by_split["test"]["lengths"]["rationale_targets"]["truncated"] == 1.0


def test_a_configuration_gives_the_same(folder, capsys):
    given = report(capsys, "--file=train=train.jsonl", "--file=test=test.json.gz", *FLAGS)
    bindings = [
        "--gin.FILES={'train': ['train.jsonl'], 'test': '*.gz'}",
        f"--gin.FIELDS={FIELDS}",
        "--gin.VOCABULARY_PATH=bytes",
    ]
    assert report(capsys, "--gin_file=gin/tasks/jsonl.gin", *bindings, "--json") == given
    with_bos = report(capsys, "--gin_file=gin/tasks/jsonl.gin", *bindings, "--gin.ENCODER_BOS=True", "--json")
    for split, found in with_bos["sets"]["jsonl"].items():
        for name, values in given["sets"]["jsonl"][split]["lengths"].items():
            assert found["lengths"][name]["p100"] == values["p100"] + name.endswith("inputs")
    whole = [
        f"--gin_file=gin/{name}.gin" for name in ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")
    ]
    changed = "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32}"
    found = report(capsys, *whole, *bindings, changed, "--json")
    assert found["lengths"] == {"inputs": 64, "targets": 32}
    assert found["sets"]["jsonl"]["test"]["rows"] == 3
    assert found["sets"]["jsonl"]["train"]["lengths"]["label_inputs"]["limit"] == 64
    rows = {split: each["rows"] for split, each in found["sets"]["jsonl"].items()}
    assert {split: each["used"] for split, each in found["sets"]["jsonl"].items()} == rows
    half = ["--gin.SUBSAMPLE=0.5", "--gin.registration.register.subsample_seed=3"]
    half_used = report(capsys, *whole, *bindings, *half, "--json")["sets"]["jsonl"]
    records = jsonl.dataset({"train": "train.jsonl"}, fields=FIELDS).records("train")
    used = sum(splits.in_subsample(record, fraction=0.5, seed=3) for record in records)
    assert {split: each["used"] for split, each in half_used.items()} == {**rows, "train": used}
    assert used < rows["train"]
    assert main(["data", *whole, *bindings, *half]) == 0
    sentence = f"jsonl train: {used} of {rows['train']} rows are used (SUBSAMPLE)"
    assert sentence in capsys.readouterr().out


def test_the_splits_that_are_there_are_reported(folder, capsys):
    flags = ["--file=train=train.jsonl", "--file=test=tset.jsonl", *FLAGS]
    found = report(capsys, *flags)["sets"]["jsonl"]
    assert found["test"] == {"missing": "tset.jsonl is missing (rows of split test); test.json.gz is there"}
    assert found["train"]["rows"] > 20
    assert main(["data", *flags[:-1]]) == 0
    assert (
        "jsonl test: left out: tset.jsonl is missing (rows of split test); test.json.gz is there"
        in capsys.readouterr().out
    )
    assert "absent.jsonl is missing" in error(capsys, "--file=train=absent.jsonl", *FLAGS)


def test_mistakes_are_one_line(folder, capsys):
    assert "Give one of --file=train=rows.jsonl" in error(capsys)
    assert "got --data_dir and --file" in error(capsys, "--data_dir=.", "--file=train=train.jsonl")
    assert "--file expects SPLIT=FILE, as train=rows.jsonl; got 'train.jsonl'" in error(capsys, "--file=train.jsonl")
    assert "--field is for the rows of --file" in error(capsys, "--gin_file=gin/tasks/jsonl.gin", "--field=input=q")
    assert "--gin_file=FILE, which is missing" in error(capsys, "--file=train=train.jsonl", "--gin.FIELDS=None")
    assert "a record has no field 'inptu'; did you mean 'input'" in error(
        capsys, "--file=train=train.jsonl", "--field=inptu=q"
    )
    swapped = error(capsys, "--file=train=train.jsonl", "--field=question=input")
    assert "--field=NAME=FIELD begins with the record's field; did you mean --field=input=question?" in swapped
    assert "FILES is" in error(capsys, "--gin_file=gin/tasks/jsonl.gin")
    assert "holds none of cqa" in error(capsys, "--data_dir=.")
    assert "no vocabulary at x.model" in error(
        capsys, "--file=train=train.jsonl", "--field=input=q", "--vocabulary=x.model"
    )


def test_the_report_imports_neither_tensorflow_nor_jax(folder):
    code = (
        "import sys, argparse\n"
        "from distill.cli import data, parser\n"
        f"options = parser.parser('data').parse_args(['data', '--file=train=train.jsonl', *{FLAGS!r}])\n"
        "data.data_command(options)\n"
        "print([m for m in ('tensorflow', 'jax', 'seqio', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_rows_without_anything_to_train_on_are_an_error(folder, capsys):
    line = error(capsys, "--file=train=train.jsonl", "--field=label=absent_label", "--vocabulary=bytes")
    assert "absent_label" in line
    pathlib.Path("bare.jsonl").write_text('{"problem": "1 + 1?", "solution": "2"}\n' * 3)
    line = error(capsys, "--file=train=bare.jsonl", "--field=input=problem", "--vocabulary=bytes")
    assert "bare.jsonl: no row has a label or a rationale to train on; give --field=label=FIELD" in line
    assert "(the rows have: problem, solution)" in line


def test_settings_of_a_training_need_its_files(folder, capsys):
    pathlib.Path("mine.gin").write_text("TRAIN_STEPS = 10\nFILES = {'train': 'train.jsonl'}\n")
    line = error(capsys, "--gin_file=gin/tasks/jsonl.gin", "--gin_file=mine.gin", "--vocabulary=bytes")
    assert (
        "nothing uses TRAIN_STEPS" in line and "give all files of its command: those of the model, the run and" in line
    )
