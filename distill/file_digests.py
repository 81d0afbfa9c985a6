"""Size and SHA-256 of files, on local disks and on ``gs://``."""

import hashlib

from etils import epath

_BLOCK_BYTES = 2**18  # fits a core's cache, so that a block is hashed where it was just read


def of_file(path: epath.PathLike) -> tuple[int, str]:
    """Returns the size in bytes and the SHA-256 in hexadecimal of a file. Reads all of it, without the GIL.

    Raises:
      OSError: the file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with epath.Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
