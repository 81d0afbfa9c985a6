"""A run does not begin among the files of another program."""

import re

import pytest

from distill.inference import own_files


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["config.gin", "notes.txt"],  # a run that has begun
        ["result.json", "student.json", "notes.txt"],
        [".lock", ".config.json.distill-partial", "attempts.json", "rows"],  # a start that was interrupted
        ["failure.json", "sweep.log", ".leases"],  # of a sweep
        ["train.log", "slurm-17.out", ".gitignore"],  # of the user's shell
    ],
)
def test_a_run_may_begin_or_continue(tmp_path, names):
    own_files.check(tmp_path / "missing" / "run")
    for name in names:
        (tmp_path / name).touch()
    own_files.check(tmp_path)
    own_files.check(str(tmp_path))


def test_files_of_another_program_are_named_with_the_remedy(tmp_path):
    for name in ("b.txt", "a.py", "config.json"):
        (tmp_path / name).touch()
    assert own_files.others(tmp_path) == ["a.py", "b.txt"]
    with pytest.raises(
        ValueError, match=rf"^MODEL_DIR={re.escape(str(tmp_path))} holds no run, but a\.py, b\.txt, "
    ) as no:
        own_files.check(tmp_path)
    assert str(no.value).endswith(f"give a new folder, such as MODEL_DIR={tmp_path / 'run'}")
    for name in ("c", "d"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"a\.py, b\.txt, c and 1 other, which"):
        own_files.check(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(ValueError, match=r"train\.jsonl is a file; expected a folder"):
        own_files.check(tmp_path / "train.jsonl")


def test_a_folder_that_cannot_be_made_is_named_with_a_remedy(tmp_path):
    (tmp_path / "file").touch()
    own_files.check_can_be_made("--output", tmp_path / "new" / "folder")
    own_files.check_can_be_made("--output", "gs://bucket/folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(
        FileNotFoundError, match=r"^--output=/proc/a/b cannot be made in /proc: .*; give a folder in which"
    ):
        own_files.check_can_be_made("--output", "/proc/a/b")
    with pytest.raises(ValueError, match=r"file/a cannot be made: .*file is a file; give the path of a new folder"):
        own_files.check_can_be_made("--output", tmp_path / "file" / "a")
