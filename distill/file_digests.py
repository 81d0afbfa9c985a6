"""Size and digests (SHA-256, BLAKE3) of files, on local disks and on ``gs://``.

SHA-256 is what other tools compute (``sha256sum``). BLAKE3 is as hard to forge, and several times as fast in software
(O'Connor, Aumasson, Neves, Wilcox-O'Hearn, *BLAKE3: one function, fast everywhere*, 2020): it is for checks that must not
delay the reader of a file.
"""

import concurrent.futures
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import blake3
from etils import epath

SHA256, BLAKE3 = "sha256", "blake3"
_HASHES: dict[str, Callable[[], Any]] = {SHA256: hashlib.sha256, BLAKE3: blake3.blake3}

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

    Each digest after the first is computed in a thread, so that several take the time of the slowest if a core is free.

    Args:
      path: of the file.
      names: any of ``"sha256"`` and ``"blake3"``.

    Raises:
      OSError: the file cannot be read.
    """
    hashes = {name: _HASHES[name]() for name in names}
    first, *others = hashes.values()
    size = 0
    # The pool starts a thread per digest after the first, and none for a single one.
    with epath.Path(path).open("rb") as file, concurrent.futures.ThreadPoolExecutor(len(hashes)) as pool:
        while block := file.read(_BLOCK_BYTES):
            pending = [pool.submit(other.update, block) for other in others]
            first.update(block)
            for future in pending:
                future.result()
            size += len(block)
    return size, {name: one.hexdigest() for name, one in hashes.items()}
