"""Small files are replaced whole."""

import pytest

from distill import atomic_files


def test_a_write_that_fails_leaves_the_earlier_text(tmp_path):
    path = tmp_path / "a.json"
    atomic_files.replace(path, "one")
    atomic_files.replace(path, "zwölf")
    assert path.read_bytes() == "zwölf".encode()
    with pytest.raises(UnicodeEncodeError):
        atomic_files.replace(path, "\ud800")
    assert path.read_bytes() == "zwölf".encode()
    atomic_files.replace(str(path), b"\0\xff")
    assert path.read_bytes() == b"\0\xff"
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        atomic_files.replace(tmp_path / "absent" / "a.json", "one")
    assert caught.value.filename == str(tmp_path / "absent" / "a.json")
    assert ".part" not in str(caught.value)
