"""``distill eval``: which files it finds for a student that was trained in another folder."""

import argparse
import dataclasses
import hashlib

import pytest

from distill import exit_codes
from distill.cli import evaluation, main
from distill.inference import student as students
from distill.inference.student import Student
from distill.model.config import T5Config
from distill.tools import vocabulary

STUDENT = Student(T5Config(384, 16, 2, 8, 32, 1, 1), "bytes", 125)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder in which a student was trained, by relative paths; the command runs in another folder."""
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    for name in ("train.jsonl", "test.jsonl"):
        (home / name).touch()
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    return home


def found(home, config, student=STUDENT, model=None, given=()):
    """The bindings of the command line after the files were found."""
    (home / "run" / "config.gin").write_text(f"from __gin__ import dynamic_registration\n{config}\n")
    students.write(home / "run", dataclasses.replace(student, trained_in=str(home)), model)
    options = argparse.Namespace(model_dir=str(home / "run"), gin_bindings=list(given))
    evaluation._find_files(options)
    return options.gin_bindings


def test_relative_data_is_that_of_the_training_folder(home, capsys):
    files = "FILES = {'train': 'train.jsonl', 'test': 'absent.jsonl', 'validation': 'gs://b/v.jsonl'}"
    wanted = {"train": str(home / "train.jsonl"), "test": "absent.jsonl", "validation": "gs://b/v.jsonl"}
    assert found(home, files, given=["SPLIT = 'test'"]) == [f"FILES = {wanted!r}", "SPLIT = 'test'"]
    assert capsys.readouterr().err == f"FILES is taken from {home}, where the student was trained\n"
    (home / "data").mkdir()
    assert found(home, "DATA_DIR = 'data'") == [f"DATA_DIR = {str(home / 'data')!r}"]


def test_lists_and_patterns_of_files_are_those_of_the_training_folder(home, tmp_path):
    (tmp_path / "away" / "here.jsonl").touch()
    files = "FILES = {'train': 't*.jsonl', 'test': ['test.jsonl', 'here.jsonl', 'absent-*.jsonl']}"
    wanted = {"train": str(home / "t*.jsonl"), "test": [str(home / "test.jsonl"), "here.jsonl", "absent-*.jsonl"]}
    assert found(home, files) == [f"FILES = {wanted!r}"]
    assert found(home, "FILES = {'test': ('here.jsonl', 'here*.jsonl')}") == []


def test_data_that_is_here_or_was_given_is_not_replaced(home, tmp_path, capsys):
    (tmp_path / "away" / "train.jsonl").touch()
    assert found(home, "FILES = {'train': 'train.jsonl'}") == []
    assert found(home, f"DATA_DIR = {str(home)!r}") == []
    assert found(home, "FILES = {'test': 'test.jsonl'}", given=["FILES = {'test': 'x'}"]) == ["FILES = {'test': 'x'}"]


def test_the_vocabulary_is_the_one_in_the_directory(home):
    model = vocabulary.train(["some words for a small model"] * 3, 40)
    pieces = dataclasses.replace(STUDENT, vocabulary="sentencepiece", vocabulary_extra_ids=0)
    path = home / "run" / students.VOCABULARY_FILE
    assert found(home, "VOCABULARY_PATH = 'gone.model'", pieces, model) == [f"VOCABULARY_PATH = {str(path)!r}"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == students.read(home / "run").vocabulary_sha256
    options = argparse.Namespace(model_dir=str(home / "run"), gin_bindings=[])
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"vocabulary\.model is damaged or another file"):
        evaluation._find_files(options)


def test_a_directory_of_an_earlier_version_is_configured_as_it_is(home):
    (home / "run" / "config.gin").write_text("FILES = {'train': 'train.jsonl'}\n")
    options = argparse.Namespace(model_dir=str(home / "run"), gin_bindings=[])
    evaluation._find_files(options)
    assert options.gin_bindings == []


def test_eval_needs_a_student(capsys):
    assert main.main(["eval"]) == exit_codes.MISTAKE
    assert "eval needs --model_dir, the directory of a trained student, or --gin_file" in capsys.readouterr().err
