"""Digests of files."""

import hashlib
import threading

import pytest
import xxhash

from distill import file_digests


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**21 + 3])
def test_size_and_digest(tmp_path, size):
    data = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(data)
    sha256, fast = hashlib.sha256(data).hexdigest(), xxhash.xxh3_128(data).hexdigest()
    assert file_digests.of_file(tmp_path / "file") == (size, sha256)
    for names, expected in (
        (("xxh3_128",), {"xxh3_128": fast}),
        (("sha256", "xxh3_128"), {"sha256": sha256, "xxh3_128": fast}),
        (("xxh3_128", "sha256"), {"sha256": sha256, "xxh3_128": fast}),
    ):
        assert file_digests.several_of_file(tmp_path / "file", names) == (size, expected)


def test_a_published_vector_of_xxh3(tmp_path):
    """XXH3 with 128 bits and seed 0 of no bytes, from the sanity checks of the xxHash reference."""
    (tmp_path / "file").write_bytes(b"")
    expected = "99aa06d3014798d86001c324468d497f"
    assert file_digests.several_of_file(tmp_path / "file", ["xxh3_128"]) == (0, {"xxh3_128": expected})


def test_hashing_leaves_the_gil_to_other_threads(tmp_path):
    block, done, counted = bytes(2**26), threading.Event(), 0
    thread = threading.Thread(target=lambda: ([xxhash.xxh3_128(block) for _ in range(8)], done.set()))
    thread.start()
    while not done.is_set():
        counted += 1
    thread.join()
    assert counted > 100  # one call holds no GIL: otherwise this loop would run only before and after it


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        file_digests.of_file(tmp_path / "absent")
