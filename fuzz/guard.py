"""Notices what reading data must not do: start processes, open connections, unpickle, execute text, write outside."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from distill.validation import quoted

_FORBIDDEN = {
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pickle.find_class", "pty.spawn",
    "socket.bind", "socket.connect", "socket.getaddrinfo", "subprocess.Popen",
}  # fmt: skip
_CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "shutil.rmtree",
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_folder: str | None = None  # where writing is allowed; None: nobody is watching
_seen: list[str] = []
_hooked = False


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[list[str]]:
    """Watches the block. Yields the list of forbidden effects, which is complete after the block.

    Args:
      folder: the only place where files may be created, changed or deleted.
    """
    global _folder, _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    _seen.clear()
    _folder = os.path.realpath(folder)
    try:
        yield _seen
    finally:
        _folder = None


def _hook(event: str, given: tuple[Any, ...]) -> None:
    if _folder is None:
        return
    if event in _FORBIDDEN:
        _seen.append(f"{event} {quoted(given, 200)}")
    elif event in _CHANGES:
        for path in given:
            if isinstance(path, (str, bytes)) and not _allowed(path):
                _seen.append(f"{event} {quoted(given, 200)}")
    elif event == "open":
        path, mode, flags = given
        writes = bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool(flags and flags & _WRITING)
        if writes and isinstance(path, (str, bytes)) and not _allowed(path):
            _seen.append(f"open {quoted(path, 200)} for writing")
    elif event == "exec" and given[0].co_filename in ("<string>", "<unknown>") and not _importing(sys._getframe()):
        _seen.append(f"exec of text: {quoted(given[0], 200)}")


def _allowed(path: str | bytes) -> bool:
    text = os.path.realpath(os.fsdecode(path))
    assert _folder is not None
    return text == os.devnull or text.startswith(_folder) or "__pycache__" in text


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: dataclasses and named tuples execute text that they wrote themselves."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
