"""JAX's persistent compilation cache in the user's cache folder, so that the second run of a command compiles nothing.

Programs go to ``$XDG_CACHE_HOME/distill/compiled/…`` (``~/.cache`` if that is not set), at most ``MAX_BYTES`` of them; the
least recently used are removed, and those that cannot be read, which JAX does not replace. ``DISTILL_COMPILATION_CACHE``
names another folder, or ``off``. JAX's own settings (``JAX_COMPILATION_CACHE_DIR``, ``JAX_ENABLE_COMPILATION_CACHE``) take
precedence.
"""

import contextlib
import hashlib
import importlib.util
import os
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Any

VARIABLE = "DISTILL_COMPILATION_CACHE"
OFF = ("off", "0", "false", "no", "none")
MAX_BYTES = 4 * 2**30
_MIN_SECONDS = 0.1
_LOCK, _PROGRAM = ".lockfile", "-cache"  # names of JAX's files
_REPORT = "Error reading persistent compilation cache entry"
_NOTHING_READ = ("Timeout", "OSError", "PermissionError", "FileNotFoundError")  # errors without a damaged program


def enable(folder: Path | None = None) -> Path | None:
    """Turns the cache on; call it before anything is compiled.

    Args:
      folder: replaces the user's cache folder, where ``DISTILL_COMPILATION_CACHE`` does not name another one.

    Returns:
      The folder; None where the cache is off: by the user's setting, by JAX's, or because the folder cannot be written.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    folder = location(jax.__version__, folder)
    if folder is None or not _is_writable(folder):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if importlib.util.find_spec("filelock") is not None:  # which JAX needs to remove old programs
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
        _remove_unfinished(folder)
        _remove_reported(folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    return folder


def location(version: str, folder: Path | None = None) -> Path | None:
    """The folder of programs compiled by this version of JAX for this processor; None if the cache is off.

    ``folder`` replaces the user's cache folder.

    A program compiled for one processor may not run on another, and home folders are shared between machines.
    """
    given = os.environ.get(VARIABLE, "")
    if given.lower() in OFF:
        return None
    if given:
        base = Path(given).expanduser()
    elif folder is not None:
        base = folder.absolute()
    else:
        home = os.environ.get("XDG_CACHE_HOME", "")
        try:
            base = (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "distill" / "compiled"
        except RuntimeError:  # no home folder
            return None
    return base / folder_name(version)


def folder_name(version: str) -> str:
    """Returns a name with JAX's version and a short hash of the processor and its features."""
    host_parts = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        host_parts += [
            next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags", "Features")
        ]
    except OSError:
        pass
    digest = hashlib.sha256("\n".join(host_parts).encode()).hexdigest()
    return f"jax-{version}-{digest[:12]}"


def _remove_unfinished(folder: Path) -> None:
    """Removes programs that a killed process or a full disk has left incomplete.

    JAX writes the time of use after the program, with its lock held: a program without one is incomplete. No other
    program could be written while there is one.
    """
    import filelock

    with contextlib.suppress(OSError, filelock.Timeout), filelock.FileLock(folder / _LOCK, timeout=0):
        for program in folder.glob(f"*{_PROGRAM}"):
            if not program.stat().st_size or not _used(program).exists():
                program.unlink()


def _remove_reported(folder: Path) -> None:
    """From now on, removes a program that JAX reports as damaged, so that the one it then compiles is written.

    The report does not name the file, which is the one that was read last.
    """
    warnings.filterwarnings("always", message=_REPORT)
    show = warnings.showwarning

    def remove_and_show(message: Warning | str, *args: Any, **named: Any) -> None:
        if str(message).startswith(_REPORT) and not any(f"': {name}: " in str(message) for name in _NOTHING_READ):
            with contextlib.suppress(OSError, ValueError):
                last = max(folder.glob(f"*{_PROGRAM}"), key=lambda program: _used(program).stat().st_mtime_ns)
                last.unlink()
        show(message, *args, **named)

    warnings.showwarning = remove_and_show


def _used(program: Path) -> Path:
    """The file with the time at which JAX has last used a program."""
    return program.with_name(program.name.removesuffix(_PROGRAM) + "-atime")


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
