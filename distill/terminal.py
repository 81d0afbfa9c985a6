"""Progress output of a command: lines at once and at intervals, also in a pipe."""

import contextlib
import contextvars
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console

STILL_S = 20.0  # seconds between two lines of a stage that takes long
_wording: contextvars.ContextVar[Callable[[str], str]] = contextvars.ContextVar("wording", default=str)
_introductions: contextvars.ContextVar[list[set[str]] | None] = contextvars.ContextVar("introductions", default=None)
_errors: contextvars.ContextVar[TextIO | None] = contextvars.ContextVar("errors", default=None)
_UNCUT = 100_000  # columns: a pipe or file has no width, and nothing is cut


def error(text: str) -> None:
    """Prints why a command ended as it did, on standard error; :func:`hidden` does not hide it."""
    print(text, file=_errors.get() or sys.stderr, flush=True)


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Inside, standard error leads nowhere, except for the lines of :func:`error`."""
    token = _errors.set(sys.stderr)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    finally:
        _errors.reset(token)


def notice(text: str) -> None:
    """Logs a line that is no warning: it is printed without a level, unless ``--quiet``.

    Where the program has its own logging, it is an INFO.
    """
    root = logging.getLogger()
    ours = any(isinstance(handler.formatter, LogFormat) for handler in root.handlers)
    root.log(logging.WARNING if ours else logging.INFO, "%s", text, extra=_NOTICE, stacklevel=2)


class LogFormat(logging.Formatter):
    """Lines of the log with their level, and those of :func:`notice` alone."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return record.getMessage() if getattr(record, "notice", False) else super().format(record)


_NOTICE = {"notice": True}


@contextlib.contextmanager
def shown_log(*, quiet: bool = False) -> Iterator[None]:
    """Inside, warnings and notices are printed as commands print them, unless the program has configured its logging.

    Args:
      quiet: print warnings only.
    """
    root = logging.getLogger()
    defaults = [handler for handler in root.handlers if _is_default(handler)]
    if len(defaults) < len(root.handlers):
        yield
        return
    for one in defaults:
        root.removeHandler(one)
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormat())
    handler.addFilter(lambda record: not (quiet and getattr(record, "notice", False)))
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for one in defaults:
            root.addHandler(one)


def _is_default(handler: logging.Handler) -> bool:
    """Whether a handler is that of ``logging.basicConfig()``, which absl calls while Orbax is imported."""
    return type(handler) is logging.StreamHandler and getattr(handler.formatter, "_fmt", None) == logging.BASIC_FORMAT


def output() -> Console:
    """Standard output for tables: as wide as the terminal; in a pipe or file, nothing is cut or wrapped."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNCUT)


@contextlib.contextmanager
def worded(rewrite: Callable[[str], str]) -> Iterator[None]:
    """Every line that a :class:`Terminal` prints inside is first passed through ``rewrite``."""
    token = _wording.set(rewrite)
    try:
        yield
    finally:
        _wording.reset(token)


@contextlib.contextmanager
def comparing_runs() -> Iterator[None]:
    """Inside, :meth:`Terminal.introduce` prints a line only if the run before (:func:`begin_run`) did not have it."""
    token = _introductions.set([set(), set()])
    try:
        yield
    finally:
        _introductions.reset(token)


def begin_run() -> None:
    """Begins the introduction of another run inside :func:`comparing_runs`; does nothing elsewhere."""
    lines = _introductions.get()
    if lines is not None:
        lines[:] = lines[1], set()


class Terminal:
    """Lines on stderr.

    Args:
      active: whether this process prints at all; of several processes only the first does.
      quiet: print warnings only.
    """

    def __init__(self, *, active: bool = True, quiet: bool = False):
        self.console = Console(stderr=True)
        self.active, self.quiet = active, quiet
        self.last = time.monotonic()

    @property
    def silent(self) -> bool:
        """Whether :meth:`say` prints nothing."""
        return self.quiet or not self.active

    def say(self, text: str) -> None:
        """Prints a line."""
        if not self.silent:
            self._print(text)

    def warn(self, text: str) -> None:
        """Prints a line that begins with ``WARNING``, also where ``quiet``."""
        if self.active:
            self._print(f"WARNING {text}")

    def introduce(self, text: str, *, warns: bool = False, compared: str | None = None) -> None:
        """Prints a line about the student or the data of a run; see :func:`comparing_runs`.

        Args:
          text: the line.
          warns: whether it is a warning.
          compared: the text that is compared with the run before, without what differs by chance; None compares the line.
        """
        lines, what = _introductions.get(), text if compared is None else compared
        if lines is not None:
            known = what in lines[0] | lines[1]  # from the run before, or from another seed of this one
            lines[1].add(what)
            if known:
                return
        (self.warn if warns else self.say)(text)

    def _print(self, text: str) -> None:
        self.last = time.monotonic()
        self.console.print(_wording.get()(text), highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def stage(self, text: str, *, announce: bool = True) -> Iterator[None]:
        """Introduces what begins, and prints every ``STILL_S`` seconds that it is not over.

        Args:
          text: such as ``compiling the training step``.
          announce: False prints only the later lines.
        """
        if self.silent:
            yield
            return
        if announce:
            self.introduce(text)
        over, begun = threading.Event(), time.monotonic()

        def still() -> None:
            while not over.wait(STILL_S):
                self.say(f"still {text}, {time.monotonic() - begun:.0f} s")

        thread = threading.Thread(target=still, daemon=True, name="stage")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
