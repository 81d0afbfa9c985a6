"""The msgpack index of a T5X checkpoint: what is read, and what damaged or hostile indices are refused with."""

import json
import shutil

import msgpack
import numpy as np
import pytest
from flax import serialization
from hypothesis import given
from hypothesis import strategies as st

from distill.checkpoints import arrays, weights
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.t5x import index as t5x_index
from distill.checkpoints.weights import flatten
from tests.distill.checkpoints.t5x.written import FUZZ, PLAIN, loads_or_refuses, refused, write_by_hand
from tests.distill.checkpoints.written import random_params, same


def test_an_array_whose_own_description_was_lost_is_read_by_the_index(tmp_path):
    params = random_params(PLAIN)
    folder = write_by_hand(tmp_path / "c", flatten(params), compressor={"id": "gzip", "level": 1})
    for hidden in folder.glob("*/.zarray"):
        hidden.unlink()
    same(t5x_checkpoints.load_params(folder, PLAIN), params)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no T5X index"),
        (b"some text\n", "its contents are not those of the msgpack file that T5X writes. Give a"),
        (b"PK\x03\x04 not msgpack", "must hold a msgpack map|no T5X index"),
        (b'model_checkpoint_path: "model.ckpt-0"', "TensorFlow checkpoint"),
        (msgpack.packb([1, 2]), "msgpack map"),
        (msgpack.packb({"version": 1, "optimizer": {}}), "version must be 2 or 3"),
        (msgpack.packb({"version": "3", "optimizer": {}}), "version must be 2 or 3"),
        (msgpack.packb({"version": 3}), "expected a map 'optimizer'"),
        (msgpack.packb({"version": 3, "optimizer": {"target": {}}}), "holds no parameters"),
        (msgpack.packb({"version": 3, "optimizer": {"target": {"a": "text"}}}), "expected an array"),
        (msgpack.packb({"version": 3, "optimizer": {"target": {"a/b": 1}}}), "without '/'"),
        (msgpack.packb({"version": 3, "optimizer": {"target": {"a": [1]}}}), "expected an array"),
        (b"\x81\xa1a" * 100 + b"\x01", "nested more than 64"),
        (b"\x91" * 100_000, "no T5X index"),
        (b"\xdd\xff\xff\xff\xff", "no T5X index"),  # an array of four billion entries, none of which are there
        (
            msgpack.packb({"target": {"a": msgpack.ExtType(1, b"\x93\x91\xce\xff\xff\xff\xff\xa7float32\xc4\x00")}}),
            "no T5X index",
        ),
        (msgpack.packb({"target": {"a": msgpack.ExtType(1, b"\x93\x90\xa6object\xc4\x08AAAAAAAA")}}), "no T5X index"),
        (msgpack.packb({"target": {"__msgpack_chunked_array__": True, "shape": 3}}), "no T5X index"),
    ],
)
def test_indices_that_are_none(content, message, tmp_path):
    (tmp_path / "checkpoint").write_bytes(content)
    refused(tmp_path, message)


def test_an_index_has_a_largest_size(native, tmp_path):
    with pytest.raises(ValueError, match="at most 10"):
        t5x_index.read(native / "checkpoint", max_bytes=10)


def change_spec(native, tmp_path, change):
    folder = tmp_path / "copy"
    shutil.copytree(native, folder)
    tree = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    change(tree["optimizer"]["target"]["token_embedder"]["embedding"])
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))
    return folder


@pytest.mark.parametrize(
    "path",
    [
        "../secret/",
        "/etc/",
        "..",
        ".",
        "",
        "a/b/",
        "target\\x",
        "x\0y",
        "//",
        7,
        None,
        ["a"],
        "target.token_embedder.absent/",
    ],
)
def test_an_index_cannot_point_out_of_its_folder(path, native, tmp_path):
    def change(spec):
        spec["kvstore"]["path"] = path

    refused(change_spec(native, tmp_path, change), "inside the checkpoint's folder|cannot be opened|is missing")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("driver", "n5", "expected a zarr array"),
        ("driver", "json", "expected a zarr array"),
        ("kvstore", {"driver": "http", "base_url": "http://localhost"}, "kvstore must be"),
        ("kvstore", "file:///etc/passwd", "expected a zarr array"),
        ("dtype", "object", "must hold numbers|no such dtype"),
        ("dtype", "uint16", "uint16"),
        ("dtype", "int32", "expected float64"),
        ("dtype", 5, "dtype"),
        ("metadata", {"shape": [2**31, 2**31]}, "elements"),
        ("metadata", {"shape": [20, -8]}, "integers ≥ 0"),
        ("metadata", {"shape": [1] * 9}, "at most 8 dimensions"),
        ("metadata", {"shape": "20"}, "must be a list"),
        ("metadata", {"shape": [20.0, 8]}, "integers"),
        ("metadata", {"shape": [True, 8]}, "integers"),
        ("metadata", {}, "must be a list"),
        ("metadata", {"shape": [40, 8]}, "does not fit"),
    ],
)
def test_descriptions_that_are_not_believed(field, value, message, native, tmp_path):
    refused(change_spec(native, tmp_path, lambda spec: spec.__setitem__(field, value)), message)


def test_an_array_that_is_not_what_the_index_says(native, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(native, folder)
    described = folder / "target.token_embedder.embedding" / ".zarray"
    for changes, message in (
        ({"shape": [40, 8]}, "the index gives float32 .20, 8., but the array is float32 .40, 8."),
        ({"dtype": "<i4"}, "but the array is int32"),
        ({"shape": [2**60, 2**60]}, "cannot be opened|elements"),
        ({"chunks": [0, 0]}, "cannot be opened"),
        ({"compressor": {"id": "nonsense"}}, "cannot be opened"),
    ):
        content = json.loads((native / "target.token_embedder.embedding" / ".zarray").read_text())
        described.write_text(json.dumps(content | changes))
        refused(folder, message)
    described.write_text("{")
    refused(folder, "cannot be opened")


def test_old_orbax_checkpoints_have_an_index_of_placeholders(tmp_path):
    params = random_params(PLAIN)
    leaves = flatten(params)
    folder = write_by_hand(tmp_path / "checkpoint_4", leaves, compressor={"id": "gzip", "level": 1})
    target = weights.unflatten({name: f"PLACEHOLDER://target.{name.replace('/', '.')}" for name in leaves})
    index = {"target": target, "state": {"step": np.int32(4)}, "flax_mutables": None}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    same(t5x_checkpoints.load_params(folder, PLAIN), params)
    for bad in ("PLACEHOLDER://../x", "PLACEHOLDER://", "PLACEHOLDER:///etc"):
        target["token_embedder"]["embedding"] = bad
        (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
        refused(folder, "inside the checkpoint's folder")


@FUZZ
@given(data=st.data())
def test_fuzz_the_index(data, native, tmp_path):
    folder = tmp_path / "fuzz"
    if not folder.exists():
        shutil.copytree(native, folder)
    content = bytearray((native / "checkpoint").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    (folder / "checkpoint").write_bytes(bytes(content[: cut if data.draw(st.booleans()) else None]))
    loads_or_refuses(folder)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.sampled_from(["driver", "PLACEHOLDER://a", "zarr", "../x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["driver", "kvstore", "metadata", "shape", "target", "a", "dtype", "path"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@FUZZ
@given(value=_VALUES)
def test_fuzz_trees(value, tmp_path):
    (tmp_path / "checkpoint").write_bytes(msgpack.packb({"version": 3, "optimizer": {"target": value}}))
    with pytest.raises((ValueError, FileNotFoundError)):
        t5x_checkpoints.load_params(tmp_path, PLAIN)


@FUZZ
@given(value=_VALUES, binary=st.binary(max_size=200))
def test_fuzz_descriptions(value, binary, tmp_path):
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": "x/"}, "metadata": value, "dtype": "float32"}
    (tmp_path / "checkpoint").write_bytes(msgpack.packb({"version": 3, "optimizer": {"target": {"a": spec}}}))
    with pytest.raises((ValueError, FileNotFoundError)):
        t5x_checkpoints.load_params(tmp_path, PLAIN)
    (tmp_path / "checkpoint").write_bytes(binary)
    with pytest.raises((ValueError, FileNotFoundError)):
        t5x_checkpoints.load_params(tmp_path, PLAIN)


def test_gs_paths_become_googles_driver():
    assert arrays.zarr_in_folder("gs://t5-data/pretrained/checkpoint_1000000", "target.x") == {
        "driver": "zarr",
        "kvstore": {"driver": "gcs", "bucket": "t5-data", "path": "pretrained/checkpoint_1000000/target.x/"},
    }
    described = t5x_index.describe("target.x", (2,), (2,), None, gcs=True)
    assert described["kvstore"] == {"driver": "gcs", "bucket": "t5x-dummy-bucket", "path": "target.x/"}
