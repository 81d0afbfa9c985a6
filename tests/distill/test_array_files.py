"""Arrays in ``.npz`` files, whole and damaged."""

import io
import random
import zipfile

import numpy as np
import pytest

from distill import array_files

ARRAYS = {"tokens": np.arange(4000, dtype=np.int32).reshape(40, 100) ** 2, "examples": np.array([0.5, 1.5])}


@pytest.fixture
def file(tmp_path):
    array_files.write(tmp_path / "new" / "arrays.npz", ARRAYS)
    return tmp_path / "new" / "arrays.npz"


def test_arrays_are_read_as_they_were_written_and_replaced_whole(file):
    found = array_files.read(file, "arrays")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    array_files.write(file, {"other": np.zeros(1)})
    assert list(array_files.read(file, "arrays")) == ["other"]
    assert [path.name for path in file.parent.iterdir()] == ["arrays.npz"]


def test_no_damage_is_silent_or_another_error(file):
    """Bits flipped, bytes overwritten, and files cut short: the arrays as they were, or one line."""
    intact, rng, refused = file.read_bytes(), random.Random(0), 0
    for number in range(1200):
        data = bytearray(intact)
        place = rng.randrange(len(data))
        if number % 3 == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif number % 3 == 1:
            data[place : place + 20] = rng.randbytes(len(data[place : place + 20]))
        else:
            del data[place:]
        file.write_bytes(data)
        try:
            found = array_files.read(file, "batch", "train again")
        except ValueError as error:
            assert str(error).startswith(f"{file} holds no batch: ")
            assert str(error).endswith("; train again")
            assert "\n" not in str(error)
            refused += 1
            continue
        for name in found.keys() & ARRAYS.keys():  # bytes of the zip file that nothing reads: times, names of arrays
            np.testing.assert_array_equal(found[name], ARRAYS[name])
    assert refused > 800


def test_python_objects_and_other_formats_are_refused(file):
    held = io.BytesIO()
    np.savez(held, objects=np.array([{}], dtype=object))
    mixed = io.BytesIO()
    np.savez(mixed, **ARRAYS)
    with zipfile.ZipFile(mixed, "a") as more:
        more.writestr("targets.npy", b"not of NumPy")
    for content, reason in (
        (held.getvalue(), "Object arrays cannot be loaded"),
        (mixed.getvalue(), "'targets' is no array"),
        (b"text", "pickled"),
        (b"", "No data"),
    ):
        with pytest.raises(ValueError, match=rf"x\.npz holds no batch: .*{reason}.*; write the file again"):
            array_files.parse(content, "x.npz", "batch")
    with pytest.raises(FileNotFoundError):
        array_files.read(file.with_name("absent.npz"), "batch")
