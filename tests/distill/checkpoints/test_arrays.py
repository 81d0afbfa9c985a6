"""Arrays in files: real zarr files are read, written chunks cover an array, and bad descriptions are refused."""

import math
import resource
import time

import numpy as np
import pytest
import tensorstore
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.checkpoints import arrays
from distill.checkpoints.arrays import TensorInfo


@pytest.fixture
def stored(tmp_path):
    """A zarr array of 5 × 7 in chunks of 2 × 3."""
    values = np.arange(35, dtype=np.float32).reshape(5, 7) + 1
    spec = arrays.zarr_in_folder(tmp_path, "kernel")
    metadata = {"shape": [5, 7], "chunks": [2, 3], "dtype": "<f4"}
    tensorstore.open({**spec, "create": True, "metadata": metadata}).result().write(values).result()
    return tmp_path, values


def test_a_whole_array_and_parts_of_it(stored):
    folder, values = stored
    found = arrays.open_array(arrays.zarr_in_folder(folder, "kernel"), "kernel", TensorInfo((5, 7), "float32"))
    np.testing.assert_array_equal(found.read(), values)
    np.testing.assert_array_equal(found.read((slice(1, 4), slice(2, 3))), values[1:4, 2:3])


def test_an_array_unlike_its_index_is_refused(stored):
    with pytest.raises(ValueError, match=r"^w: .*float32 \[7, 5\].*float32 \[5, 7\]"):
        arrays.open_array(arrays.zarr_in_folder(stored[0], "kernel"), "w", TensorInfo((7, 5), "float32"))


def test_a_missing_chunk_is_no_zeros(stored):
    folder, _ = stored
    (folder / "kernel" / "1.1").unlink()
    found = arrays.open_array(arrays.zarr_in_folder(folder, "kernel"), "w")
    with pytest.raises(ValueError, match=r"^w cannot be read"):
        found.read()
    assert found.read((slice(0, 2), slice(0, 3))).shape == (2, 3)


def test_a_missing_chunk_of_zarr3_is_no_zeros(tmp_path):
    spec = arrays.zarr_in_folder(tmp_path, "kernel", driver="zarr3")
    layout = tensorstore.ChunkLayout(read_chunk_shape=[2, 2], write_chunk_shape=[2, 2])
    opened = tensorstore.open({**spec, "create": True}, shape=[4, 4], dtype="float32", chunk_layout=layout).result()
    opened[:2].write(1).result()
    found = arrays.open_array(spec, "w")
    with pytest.raises(ValueError, match=r"^w cannot be read"):
        found.read()
    assert found.read((slice(0, 2), slice(0, 3))).shape == (2, 3)


def test_many_chunks_of_an_array_are_refused_or_read_a_few_at_a_time(tmp_path):
    """Found by fuzzing: millions of reads of chunks that are not there were begun before the first one failed."""
    begun = time.process_time()
    for number, columns in enumerate((2**26, 2 * 900_000)):
        spec = arrays.zarr_in_folder(tmp_path, f"kernel{number}")
        metadata = {"shape": [2, columns], "chunks": [2, 2], "dtype": "<f4"}
        tensorstore.open({**spec, "create": True, "metadata": metadata}).result()
        with pytest.raises(
            ValueError, match=r"^w: an array has at most 1,000,000 chunks; got 33,|^w cannot be read.*missing"
        ):
            arrays.open_array(spec, "w").read()
    assert time.process_time() - begun < 5


def test_a_missing_array_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^the table cannot be opened"):
        arrays.open_array(arrays.zarr_in_folder(tmp_path, "none"), "the table")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0", 3, None, "x" * 1025])
def test_names_that_leave_the_folder(name):
    with pytest.raises(ValueError, match=r"^here: expected a name inside"):
        arrays.check_component(name, "here")


@pytest.mark.parametrize("shape", [None, 3, "34", [1.0], [-1], [True], [1] * 9, [2**21, 2**20]])
def test_shapes_that_are_refused(shape):
    with pytest.raises(ValueError, match=r"^here: "):
        arrays.check_shape(shape, "here")


def test_shapes_that_are_accepted():
    assert arrays.check_shape([2**20, 2**20], "") == (2**20, 2**20)
    assert arrays.check_shape((np.int64(3), 0), "") == (3, 0)
    assert arrays.check_shape([], "") == ()


@pytest.mark.parametrize(
    "name, expected", [("<f4", "float32"), ("bfloat16", "bfloat16"), ("|b1", "bool"), ("i8", "int64")]
)
def test_dtypes_that_are_accepted(name, expected):
    assert arrays.check_dtype(name, "") == expected


@pytest.mark.parametrize("name", ["O", "U5", "f4,f4", "M8[s]", "no", [], "("])
def test_dtypes_that_are_refused(name):
    with pytest.raises(ValueError, match=r"^here: "):
        arrays.check_dtype(name, "here")


def test_stores():
    assert arrays.kvstore("gs://bucket/a/b/") == {"driver": "gcs", "bucket": "bucket", "path": "a/b/"}
    assert arrays.kvstore("/a/b") == {"driver": "file", "path": "/a/b/"}
    assert arrays.zarr_in_ocdbt("/a", "b")["kvstore"] == {
        "driver": "ocdbt", "base": {"driver": "file", "path": "/a/"}, "path": "b/",
    }  # fmt: skip
    with pytest.raises(ValueError, match="s3://bucket/a"):
        arrays.kvstore("s3://bucket/a")


@pytest.mark.parametrize("shape, chunks", [((5, 7), (2, 3)), ((4,), (4,)), ((), ()), ((0, 3), (1, 3))])
def test_blocks_cover_an_array_once(shape, chunks):
    seen = np.zeros(shape, int)
    for place in arrays.blocks(shape, chunks):
        assert all(part.stop - part.start <= chunk for part, chunk in zip(place, chunks))
        seen[place] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(
    "shape, stacked, max_bytes, expected",
    [
        ((8, 16), False, None, (8, 16)),
        ((8, 16), False, 128, (2, 16)),
        ((8, 16), False, 32, (1, 8)),
        ((8, 3, 16), True, 512, (8, 1, 16)),
        ((8, 3, 16), True, 128, (2, 1, 16)),
        ((0, 4), False, None, (1, 4)),
    ],
)
def test_chunks_are_within_their_limit(shape, stacked, max_bytes, expected):
    chunk = arrays.chunk_shape(shape, stacked=stacked, max_bytes=max_bytes)
    assert chunk == expected
    assert 4 * math.prod(chunk) <= (max_bytes or arrays.CHUNK_BYTES)


def test_an_array_that_no_memory_holds_is_refused_by_name(tmp_path):
    """Found by fuzzing: the file's shape was allocated, and MemoryError named neither file nor shape."""
    spec = arrays.zarr_in_folder(tmp_path, "kernel")
    metadata = {"shape": [2**19, 2**20], "chunks": [2**19, 2**10], "dtype": "<f8"}
    tensorstore.open({**spec, "create": True, "metadata": metadata}).result()
    tensor = arrays.open_array(spec, "the kernel")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**42, hard))
    try:
        with pytest.raises(
            ValueError, match=r"the kernel cannot be read: its shape \[524288, 1048576\] needs [\d,]+ bytes"
        ):
            tensor.read()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_an_array_in_memory():
    array = np.asarray([[1, 2], [3, 4]], np.int16)
    found = arrays.in_memory(array)
    assert found.info == ((2, 2), "int16")
    assert found.read((slice(1, 2),)).tolist() == [[3, 4]]


@given(st.lists(st.integers(1, 5000), min_size=0, max_size=4).map(tuple), st.booleans())
@settings(max_examples=200)
def test_chunks_are_small_and_whole(shape, stacked):
    chunk = arrays.chunk_shape(shape, stacked=stacked)
    assert len(chunk) == len(shape) and all(1 <= c <= max(s, 1) for c, s in zip(chunk, shape))
    assert 4 * np.prod(chunk, dtype=np.int64) <= arrays.CHUNK_BYTES
