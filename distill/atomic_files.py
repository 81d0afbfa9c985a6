"""Atomic replacement of small files, on local disks and on ``gs://``."""

import contextlib

from etils import epath

_SUFFIX = ".distill-partial"


def partial(path: epath.PathLike) -> epath.Path:
    """The file beside ``path`` that is written first, and then replaces it; a process that was killed may leave it.

    The next write replaces it, so no other program may use the name.

    >>> partial("runs/config.json").name
    '.config.json.distill-partial'
    """
    target = epath.Path(path)
    return target.with_name(f".{target.name}{_SUFFIX}")


def replace(path: epath.PathLike, content: str | bytes) -> None:
    """Replaces a file: a reader, or a restart after this process was killed, sees the old or the new content.

    An error, such as a full disk, leaves the old file, and no part of the new one.

    Args:
      path: in an existing folder.
      content: text is written in UTF-8.
    """
    target = epath.Path(path)
    part = partial(target)
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) == str(part):
            error.filename = str(target)  # the name that the caller knows
        raise
