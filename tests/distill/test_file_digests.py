"""Digests of files."""

import hashlib
import threading

import blake3
import pytest

from distill import file_digests


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**21 + 3])
def test_size_and_digest(tmp_path, size):
    data = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(data)
    sha256, fast = hashlib.sha256(data).hexdigest(), blake3.blake3(data).hexdigest()
    assert file_digests.of_file(tmp_path / "file") == (size, sha256)
    for names, expected in (
        (("blake3",), {"blake3": fast}),
        (("sha256", "blake3"), {"sha256": sha256, "blake3": fast}),
        (("blake3", "sha256"), {"sha256": sha256, "blake3": fast}),
    ):
        assert file_digests.several_of_file(tmp_path / "file", names) == (size, expected)


def test_a_published_vector_of_blake3(tmp_path):
    """``hash`` of input length 1024 in test_vectors.json of the BLAKE3 reference, whose input is bytes modulo 251."""
    (tmp_path / "file").write_bytes(bytes(number % 251 for number in range(1024)))
    expected = "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"
    assert file_digests.several_of_file(tmp_path / "file", ["blake3"]) == (1024, {"blake3": expected})


def test_hashing_leaves_the_gil_to_other_threads(tmp_path):
    block, done, counted = bytes(2**26), threading.Event(), 0
    thread = threading.Thread(target=lambda: (blake3.blake3(block), done.set()))
    thread.start()
    while not done.is_set():
        counted += 1
    thread.join()
    assert counted > 100  # one call holds no GIL: otherwise this loop would run only before and after it


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        file_digests.of_file(tmp_path / "absent")
