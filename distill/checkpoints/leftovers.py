"""Removal of what a failed export or conversion has begun to write, so that the same command can be run again."""

import contextlib
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def removed_on_failure(directory: epath.PathLike, prefix: str = "") -> Iterator[None]:
    """An error or a signal inside removes the files and folders of ``directory`` that are new, and itself if it is new.

    Args:
      directory: a folder, or the path of one to be made.
      prefix: of the names that may be removed.
    """
    root = epath.Path(directory)
    before = {path.name for path in root.iterdir()} if root.is_dir() else None
    try:
        yield
    except BaseException:
        for path in list(root.iterdir()) if root.is_dir() else ():
            if path.name not in (before or ()) and path.name.startswith(prefix):
                path.rmtree() if path.is_dir() else path.unlink()
        if before is None and root.is_dir() and not any(root.iterdir()):
            root.rmdir()
        raise
