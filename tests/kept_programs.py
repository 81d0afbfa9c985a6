"""The folder of compiled programs that one test session leaves to the next, which then need not compile them.

A session takes the folder by renaming it, and puts it back at its end. A second session at the same time finds no such
folder, and makes another. The folder is in pytest's own cache: ``pytest --cache-clear`` removes it. JAX finds a
program by its code, its options and its compiler's version: programs of code that has changed since are not found, and
leave the folder when it is full.
"""

import os
import pathlib
import shutil
import tempfile
import time

PARENT = pathlib.Path(__file__).resolve().parents[1] / ".pytest_cache" / "d" / "compiled-programs"
LIMIT = 1 << 30  # bytes
DAYS = 30
_IN_USE = "in-use-"


def take(kept: pathlib.Path) -> pathlib.Path:
    """Takes the kept programs for this process.

    Args:
      kept: the folder. Its parent has nothing but such folders; those of killed sessions are removed, and those that were
        not used for ``DAYS``, of an older version of JAX for example.

    Returns:
      The same folder under a name of this process, or an empty one: where there is none, where another session has taken
      it, or where the parent cannot be written (then in the temporary folder).
    """
    taken = kept.with_name(f"{_IN_USE}{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        for other in kept.parent.iterdir():
            if _is_left(other):
                shutil.rmtree(other)
        try:
            kept.rename(taken)
        except FileNotFoundError:
            taken.mkdir()
    except OSError:
        return pathlib.Path(tempfile.mkdtemp(prefix="compiled-"))
    return taken


def put_back(taken: pathlib.Path, kept: pathlib.Path, since: float) -> None:
    """Puts the folder back in its place; programs that were cut off and those that were used longest ago are removed.

    Args:
      taken: folder of :func:`take`. It is removed where another session has put its own back, or where it is in the
        temporary folder.
      kept: the folder's place.
      since: time (s) at which the session began; programs written before were checked by the session that wrote them.
    """
    if not taken.exists():  # ``--cache-clear``, and nothing was compiled since
        return
    if taken.parent != kept.parent or kept.exists():
        shutil.rmtree(taken, ignore_errors=True)
        return
    files = sorted((path for path in taken.iterdir()), key=_last_use, reverse=True)
    total = 0
    for path in files:
        size = path.stat().st_size
        total += size
        if total > LIMIT or (path.stat().st_mtime >= since and not _is_whole(path)):
            path.unlink()
            total -= size
    taken.rename(kept)
    os.utime(kept)


def _last_use(path: pathlib.Path) -> float:
    status = path.stat()
    return max(status.st_atime, status.st_mtime)


def _is_left(folder: pathlib.Path) -> bool:
    """Whether no session has used a folder for ``DAYS``, or the session that has it was killed."""
    number = folder.name.removeprefix(_IN_USE)
    if number == folder.name:
        return folder.stat().st_mtime < time.time() - DAYS * 86400
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:  # of another user
        return False
    return False


def _is_whole(path: pathlib.Path) -> bool:
    """Whether JAX can decompress a program; one whose process was killed as it wrote is cut off."""
    from jax._src import compilation_cache

    decompress = getattr(compilation_cache, "decompress_executable", None)
    if decompress is None:
        return False
    try:
        decompress(path.read_bytes())
    except Exception:  # JAX uses one of three compressors, whose errors have no common class
        return False
    return True
