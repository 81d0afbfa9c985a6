"""Signals: the first one ends a command by an exception or after saving, a second Ctrl-C ends the process at once.

Python runs a signal's handler between two bytecode instructions, so a compilation of a minute would delay both. A thread
therefore reads the signals' numbers from the pipe that Python's C handler writes them to (:func:`signal.set_wakeup_fd`).
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from typing import NoReturn

from distill import exit_codes
from distill.exit_codes import APART_S

AGAIN_S = 0.1
"""A signal whose exception was lost is sent again after this time: where it was lost has ended by then."""
_LOST = 255  # in the pipe, where numbers of signals are at most 64


_trained: list[str] = []
"""The model directory in which this process trains; after a signal, that in which it has trained."""
_ends: dict[int, Callable[[int], None]] = {}
"""By the number of a signal that ends the command, what ends the process instead, with the same line and exit code."""
_at_once = threading.Event()


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Inside, a signal that would end the command ends the process: for a wait in C code before there is anything to save.

    No handler in Python runs before such a call returns.
    """
    _at_once.set()
    try:
        yield
    finally:
        _at_once.clear()


@contextlib.contextmanager
def training_in(directory: str) -> Iterator[None]:
    """Inside, and after a signal, :func:`unsaved` is about this model directory."""
    _trained[:] = [directory]
    try:
        yield
    except exit_codes.Stopped:
        raise
    except Exception:
        _trained.clear()
        raise
    _trained.clear()


def unsaved() -> str | None:
    """The model directory of :func:`training_in` if it holds no checkpoint; imports nothing."""
    directory = next(iter(_trained), None)
    if directory is None or "://" in directory:
        return None
    return None if holds_checkpoint(directory) else directory


def holds_checkpoint(directory: str) -> bool:
    """Whether a local model directory holds a checkpoint; imports nothing, for signals during imports."""
    try:
        return any(name.isdecimal() for name in os.listdir(os.path.join(directory, "checkpoints")))
    except OSError:
        return False


_on_workers: list[str] = []
"""What becomes of the runs that worker processes train, which end when this process is gone."""


@contextlib.contextmanager
def workers_train(*, save: bool) -> Iterator[None]:
    """Inside, worker processes of this machine train: they notice the end of this process, and stop.

    Args:
      save: whether they save checkpoints then.
    """
    _on_workers[:] = [
        "the workers save checkpoints and stop" if save else "the workers stop, and joint seeds in progress start again"
    ]
    try:
        yield
    finally:
        _on_workers.clear()


def _message() -> bytes:
    directory = unsaved()
    lost = next(iter(_on_workers), "progress since the last save is lost")
    if directory is not None:
        lost = f"nothing was saved of the run in {directory}, which starts again"
    return f"\nstopped at once by a second SIGINT; {lost}\n".encode()


class Interrupted(BaseException):
    """A signal ended a command outside of the training loop, which handles signals; the text is the signal's name."""


class _CtrlC(KeyboardInterrupt):
    """As Python's own, and can be referred to weakly."""


class Again:
    """Sends signals, by their numbers, to the main thread again after :data:`AGAIN_S`.

    It takes no lock, so that it can be called wherever an object is freed.

    Args:
      pipe: the socket that the thread of :func:`second_ends` reads.
    """

    def __init__(self, pipe: socket.socket):
        self._pipe = pipe
        self._pending: list[int] = []

    def __call__(self, number: int) -> None:
        self._pending.append(number)
        with contextlib.suppress(OSError):  # the command has ended
            self._pipe.send(bytes([_LOST]))

    def cancel(self) -> None:
        """What was not sent yet is not sent."""
        self._pending.clear()

    def deliver(self) -> set[int]:
        """Sends what is pending; returns the numbers."""
        taken, self._pending = self._pending, []
        pending = set(taken)
        for number in pending:
            handler = signal.getsignal(number)
            # Not where it is ignored or would kill the process: the command has ended.
            if callable(handler) and handler is not signal.default_int_handler:
                signal.pthread_kill(threading.main_thread().ident or 0, number)
        return pending


class Received:
    """The signals of one command.

    Args:
      again: sends a signal whose exception was lost; None outside of the main thread, which receives none.

    Attributes:
      names: their names so far. Libraries convert exceptions, so that :class:`Interrupted` may arrive as another one.
    """

    def __init__(self, again: Again | None):
        self.names: list[str] = []
        self._again = again
        self._raised: list[weakref.ref[BaseException]] = []

    def exception(self, number: int) -> BaseException:
        """Returns the exception of a signal. If nothing handles it, the signal is sent again.

        Exceptions are lost where Python can raise none: JAX registers a callback of the garbage collector, and an
        exception in it, as in ``__del__``, is printed and ignored. It is freed then, which this object watches.
        """
        error = Interrupted(signal.Signals(number).name) if number != signal.SIGINT else _CtrlC()
        if self._again is not None:
            again = self._again
            self._raised.append(weakref.ref(error, lambda _: again(number)))
        return error

    def handled(self) -> None:
        """The command has ended by them: none is sent again."""
        self._raised.clear()
        if self._again is not None:
            self._again.cancel()


@contextlib.contextmanager
def second_ends() -> Iterator[Again | None]:
    """Inside, a second SIGINT ends the process with :data:`distill.exit_codes.INTERRUPTED`; no clean-up code runs.

    Checkpoints and answers are written so that a killed process leaves them intact. Outside of the main thread, which alone
    receives signals, this does nothing.

    Yields:
      What sends a signal again; None outside of the main thread.
    """
    _trained.clear()  # of an earlier command of this process
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    again = Again(writer)
    threading.Thread(target=_watch, args=(reader, again), daemon=True, name="interrupts").start()
    try:
        yield again
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()  # ends the thread


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code without Python's end, in which another signal, or a thread, can crash it.

    Threads of JAX and TensorFlow may compile or read on when a signal has ended a command.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the exit code is decided
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            stream.flush()
    os._exit(code)


def _watch(reader: socket.socket, again: Again) -> None:
    first: float | None = None
    with reader:
        while received := reader.recv(64):
            for byte in received:
                if byte == _LOST:
                    time.sleep(AGAIN_S)
                    if signal.SIGINT in again.deliver():
                        first = None  # it comes through the pipe once more, and is still the first
                elif _at_once.is_set() and byte in _ends:
                    _ends[byte](byte)
                elif byte == signal.SIGINT:
                    now = time.monotonic()
                    if first is None:
                        first = now
                    elif now - first > APART_S:
                        os.write(2, _message())
                        os._exit(exit_codes.INTERRUPTED)


@contextlib.contextmanager
def signals_raise(line: Callable[[str], str], again: Again | None, *, last: bool) -> Iterator[Received]:
    """SIGTERM and SIGINT end a command by an exception, so that clean-up code runs.

    In the middle of an import they end the process at once, with the same line and exit code: an exception there can
    crash the start of a native module, or come back as the library's ImportError.

    Args:
      line: the line to print for the name of a signal.
      again: sends a signal again; see :func:`second_ends`.
      last: whether the process ends after the block. SIGTERM is ignored then: the exit code is decided.

    Yields:
      The signals so far.
    """
    received = Received(again)
    ended = threading.Lock()  # never released: the line is printed once

    def end(number: int) -> None:
        if ended.acquire(blocking=False):
            if terminal is not None:
                os.write(terminal, line(signal.Signals(number).name).encode())
            os._exit(exit_codes.STOPPED)

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        received.names.append(signal.Signals(number).name)
        if _imports(frame) or _at_once.is_set():
            end(number)
        raise received.exception(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    terminal = None
    with contextlib.suppress(OSError):  # the process has no file descriptor 2
        terminal = os.dup(2)  # while TensorFlow is imported, descriptor 2 leads nowhere
    _ends[signal.SIGTERM] = end
    previous = signal.signal(signal.SIGTERM, interrupt)
    # Not where a caller ignores or handles it.
    by_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_default:
        _ends[signal.SIGINT] = end
        signal.signal(signal.SIGINT, interrupt)
    shown, sys.unraisablehook = sys.unraisablehook, _others(sys.unraisablehook)
    try:
        yield received
    finally:
        _ends.clear()
        received.handled()
        sys.unraisablehook = shown
        signal.signal(signal.SIGTERM, signal.SIG_IGN if last else previous)
        if by_default:
            # An exception while Python ends can crash a library's clean-up: then, the system ends the process.
            signal.signal(signal.SIGINT, signal.SIG_DFL if last else signal.default_int_handler)
        if terminal is not None:
            os.close(terminal)


def _others(hook: Callable[["sys.UnraisableHookArgs"], object]) -> Callable[["sys.UnraisableHookArgs"], None]:
    """A hook that prints exceptions which Python cannot raise as ``hook`` does, and those of signals not."""

    def shown(unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, (Interrupted, _CtrlC)):
            hook(unraisable)

    return shown


def _imports(frame: types.FrameType | None) -> bool:
    """Whether a frame, or one of its callers, belongs to Python's import system."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
