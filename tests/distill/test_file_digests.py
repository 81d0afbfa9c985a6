"""Digests of files."""

import hashlib

import pytest

from distill import file_digests


@pytest.mark.parametrize("size", [0, 1, 2**18, 2**20 + 3])
def test_size_and_digest(tmp_path, size):
    data = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(data)
    assert file_digests.of_file(tmp_path / "file") == (size, hashlib.sha256(data).hexdigest())


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        file_digests.of_file(tmp_path / "absent")
