"""Folders of safetensors weights that are damaged or hostile: every one is refused in one line."""

import errno
import json
import os
import random
import struct

import pytest
import torch

from distill import exit_codes
from distill.checkpoints import huggingface
from distill.checkpoints.huggingface import weights_folder
from distill.checkpoints.huggingface.config import config_from_hf
from distill.cli import errors
from tests.distill import hf_models
from tests.distill.checkpoints.written import random_params


@pytest.mark.parametrize("pickled", [False, True])
def test_pickles_are_refused(pickled, folder):
    (folder / "model.safetensors").unlink()
    if pickled:
        torch.save({"shared.weight": torch.zeros(2)}, folder / "pytorch_model.bin")
    message = "only pytorch_model.bin, a pickle, and not" if pickled else "neither"
    with pytest.raises(
        FileNotFoundError, match=rf"has {message} model.safetensors.*runs whatever code.*save_pretrained"
    ):
        huggingface.load_pretrained(folder)


def header(tensors, data: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04" + b"\0" * 100,
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 10) + b"not json!!",
        header([1, 2]),
        header({"shared.weight": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"1234"),
        header({"shared.weight": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        header({"shared.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**50]}}, b"1234"),
        header({"shared.weight": {"dtype": "F77", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        header({"shared.weight": {"dtype": "F32", "shape": [0, 2**60], "data_offsets": [0, 0]}}),
    ],
    ids=range(11),
)
def test_damaged_weights(content, folder):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"no safetensors file, or a damaged one|does not fit the configuration"):
        huggingface.load_pretrained(folder)


def test_a_fault_of_the_storage_is_no_damage(folder, monkeypatch):
    def fails(path, framework):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(weights_folder, "safe_open", fails)
    with pytest.raises(OSError, match=r"model\.safetensors cannot be read now: .*Stale file handle; wait") as raised:
        huggingface.load_pretrained(folder)
    assert errors.explain(raised.value)[0] == exit_codes.MACHINE


def test_truncated_weights(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file, or a damaged one"):
        huggingface.load_pretrained(folder)


@pytest.fixture
def sharded(tmp_path):
    config = config_from_hf(hf_models.fields("t5"))
    huggingface.save_pretrained_folder(random_params(config), config, tmp_path / "sharded", max_shard_bytes=30_000)
    return tmp_path / "sharded"


@pytest.mark.parametrize(
    "file",
    [
        "../copy/model.safetensors",
        "/etc/passwd",
        "/etc/x.safetensors",
        "sub/model.safetensors",
        "..\\x.safetensors",
        "..",
        "",
        "x.safetensors\0",
        "config.json",
        7,
        None,
        ["a.safetensors"],
    ],
)
def test_an_index_stays_in_its_folder(file, sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["shared.weight"] = file
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"shared.weight must be in a \.safetensors file of the same folder"):
        huggingface.load_pretrained(sharded)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ("[]", "must hold a JSON object; got a list"),
        ("{}", "must hold an object 'weight_map'"),
        ('{"weight_map": []}', "must hold an object 'weight_map'"),
        ('{"weight_map": {"shared.weight": "absent.safetensors"}}', "names absent.safetensors, which does not exist"),
        ('{"weight_map": {"x": "' + "a" * 300 + '.safetensors"}}', "named without a path"),  # found by fuzzing: OSError
        ('{"weight_map": {"x": "\\ud800.safetensors"}}', "named without a path"),
        ('{"weight_map": {"x": "model-00001-of-00002.safetensors"}}', "names|holds x; it does not"),
    ],
)
def test_damaged_indices(content, message, sharded):
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        huggingface.load_pretrained(sharded)


def test_an_index_that_promises_too_much(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first, last = sorted(set(index["weight_map"].values()))[0], sorted(set(index["weight_map"].values()))[-1]
    moved = next(name for name, file in index["weight_map"].items() if file == first)
    index["weight_map"][moved] = last
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"lists {moved} in {last}, which does not hold it"):
        huggingface.load_pretrained(sharded)


def test_an_oversized_config(folder, monkeypatch):
    monkeypatch.setattr(weights_folder, "_MAX_JSON_BYTES", 100)
    with pytest.raises(ValueError, match="holds at most 100"):
        huggingface.load_pretrained(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_random_damage(file, folder):
    """Whatever bytes change, loading either works or raises ValueError."""
    rng = random.Random(0)
    path = folder / file
    whole = path.read_bytes()
    # The header of the weights is where a change means something.
    reach = min(len(whole), 8 + struct.unpack("<Q", whole[:8])[0]) if file.endswith("safetensors") else len(whole)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            kind, at = rng.randrange(4), rng.randrange(reach)
            if kind == 0:
                damaged[at % len(damaged)] = rng.randrange(256)
            elif kind == 1:
                damaged[at % len(damaged)] ^= 1 << rng.randrange(8)
            elif kind == 2:
                del damaged[at : at + rng.randint(1, 20)]
            else:
                damaged[at:at] = rng.choice([b"0", b"9" * 20, b"-1", b"[", b"\0", b'"', b"null", b"true"])
        path.write_bytes(damaged)
        try:
            huggingface.load_pretrained(folder)
            outcomes.add("loaded")
        except ValueError as error:
            assert str(folder) in str(error)
            outcomes.add("refused")
    assert "refused" in outcomes
