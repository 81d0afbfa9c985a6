"""JAX's persistent compilation cache in the user's cache folder, so that the second run of a command compiles nothing.

Programs go to ``$XDG_CACHE_HOME/distill/compiled/…`` (``~/.cache`` if that is not set), at most ``MAX_BYTES`` of them;
the least recently used are removed. ``DISTILL_COMPILATION_CACHE`` names another folder, or ``off``. JAX's own settings
(``JAX_COMPILATION_CACHE_DIR``, ``JAX_ENABLE_COMPILATION_CACHE``) take precedence.
"""

import hashlib
import importlib.util
import os
import platform
import tempfile
from pathlib import Path

VARIABLE = "DISTILL_COMPILATION_CACHE"
OFF = ("off", "0", "false", "no", "none")
MAX_BYTES = 4 * 2**30
_MIN_SECONDS = 0.1


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


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
