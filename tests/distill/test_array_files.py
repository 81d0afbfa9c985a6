"""Arrays in ``.npz`` files, whole and damaged."""

import io
import random
import struct
import tracemalloc
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
        (b"text", "File is not a zip file"),
        (b"", "File is not a zip file"),
    ):
        with pytest.raises(ValueError, match=rf"x\.npz holds no batch: .*{reason}.*; write the file again"):
            array_files.parse(content, "x.npz", "batch")
    with pytest.raises(FileNotFoundError):
        array_files.read(file.with_name("absent.npz"), "batch")


def entry(shape, data, dtype="<f4"):
    """An array's file whose header gives this shape."""
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": dtype, "fortran_order": False, "shape": shape})
    return held.getvalue() + data


def zipped(**entries):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return held.getvalue()


def test_arrays_that_are_far_larger_than_their_file_take_no_memory(monkeypatch):
    monkeypatch.setattr(array_files, "_ANY_BYTES", 2**20)
    zeros = zipped(a=entry((2**20,), bytes(4 * 2**20)), b=entry((2**20,), bytes(4 * 2**20)))
    assert len(zeros) < 2**14
    small = zipped(a=entry((2**18 - 100,), bytes(2**20 - 400)))
    assert array_files.parse(small, "x.npz", "batch")["a"].shape == (2**18 - 100,)
    tracemalloc.start()
    message = r"its arrays hold 8,388,864 bytes, and [\d,]+ when they are compressed; expected at most [\d,]+; train"
    with pytest.raises(ValueError, match=message):
        array_files.parse(zeros, "x.npz", "batch", "train again")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    monkeypatch.setattr(array_files, "_RATIO", 1200)
    assert len(array_files.parse(zeros, "x.npz", "batch")) == 2
    monkeypatch.setattr(array_files, "_MOST_BYTES", 2**22)
    with pytest.raises(ValueError, match="expected at most 4,194,304"):
        array_files.parse(zeros, "x.npz", "batch")


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**21), (3,), (5,), (-1, -4), ()])
def test_a_header_of_another_size_than_its_array_is_refused(shape):
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x\.npz holds no batch: 'a' holds 144 bytes, expected [-\d,]+ for shape \("):
        array_files.parse(zipped(a=entry(shape, bytes(16))), "x.npz", "batch")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_the_sizes_in_the_zip_file_may_be_wrong():
    """What is decompressed is no more than what the file gives as its size."""
    content = bytearray(zipped(a=entry((2**20,), bytes(4 * 2**20))))
    for place in (22, content.index(b"PK\x01\x02") + 24):  # uncompressed size, in the local and the central header
        content[place : place + 4] = struct.pack("<I", 144)
    with pytest.raises(ValueError, match="Bad CRC-32 for file"):
        array_files.parse(bytes(content), "x.npz", "batch")
