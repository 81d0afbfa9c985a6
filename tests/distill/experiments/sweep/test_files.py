"""The names that the scheduler repeats, and atomic replacement."""

import pytest

from distill.experiments.sweep import files
from distill.training import reporting


def test_the_names_are_those_of_training():
    assert (files.RESULT, files.EVALUATIONS) == (reporting.RESULT, reporting.VALIDATION)


def test_a_file_is_replaced_whole(tmp_path):
    files.replace_text(tmp_path / "a" / "b.json", "[1]")
    assert (tmp_path / "a" / "b.json").read_text() == "[1]"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]
    (tmp_path / "result.json").write_text("[1]")
    with pytest.raises(ValueError, match="must hold a JSON object; got list"):
        files.read_result(tmp_path)
