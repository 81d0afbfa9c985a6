"""Size and digests (SHA-256, XXH3) of files, on local disks and on ``gs://``.

SHA-256 is hard to forge, and is what ``sha256sum`` prints. XXH3 with 128 bits (Collet, *xxHash*, version 0.8; what
``xxh128sum`` prints) detects accidental damage, which leaves it unchanged with a probability of about 2⁻¹²⁸, at the speed
of memory: it is for checks that must not delay the reader of a file. It is not cryptographic: other contents with the same
XXH3 can be constructed.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import xxhash
from etils import epath

SHA256, XXH3 = "sha256", "xxh3_128"
_HASHES: dict[str, Callable[[], Any]] = {SHA256: hashlib.sha256, XXH3: xxhash.xxh3_128}

_BLOCK_BYTES = 2**20  # fits a core's cache, and is large enough that the wait for the GIL between blocks is small


def of_file(path: epath.PathLike) -> tuple[int, str]:
    """Returns the size in bytes and the SHA-256 in hexadecimal of a file. Reads all of it, without the GIL.

    Raises:
      OSError: the file cannot be read.
    """
    size, digests = several_of_file(path, (SHA256,))
    return size, digests[SHA256]


def several_of_file(path: epath.PathLike, names: Iterable[str]) -> tuple[int, dict[str, str]]:
    """Returns the size in bytes and the named digests in hexadecimal of a file, which is read once, without the GIL.

    Args:
      path: of the file.
      names: any of ``"sha256"`` and ``"xxh3_128"``.

    Raises:
      OSError: the file cannot be read.
    """
    hashes = {name: _HASHES[name]() for name in names}
    size = 0
    with epath.Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            for one in hashes.values():
                one.update(block)
            size += len(block)
    return size, {name: one.hexdigest() for name, one in hashes.items()}
