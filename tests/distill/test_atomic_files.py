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
    assert "partial" not in str(caught.value)


def test_a_file_beside_the_output_that_looks_unfinished_is_kept(tmp_path):
    others = {tmp_path / name: f"the user's {name}" for name in ("a.json.part", "a.json.partial", ".a.json.part")}
    for path, text in others.items():
        path.write_text(text)
    atomic_files.partial(tmp_path / "a.json").write_text("of a process that was killed")
    atomic_files.replace(tmp_path / "a.json", "one")
    assert {path: path.read_text() for path in tmp_path.iterdir()} == {**others, tmp_path / "a.json": "one"}
