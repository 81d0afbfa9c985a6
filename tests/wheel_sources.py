"""What distributions are built from, and where their dependencies are installed, for the tests of packaging."""

import importlib.util
import pathlib
import shutil

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ("distill", "tasks", "tools", "gin")
DEPENDENCIES = ("jax", "tensorflow", "seqio", "typeguard", "shtab")  # by which the folders of all others are found


def copy_sources(target: pathlib.Path) -> None:
    """Copies what an sdist is built from, symbolic links as links."""
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in (".py", ".toml", ".md", ".in", ".txt", ""):
            shutil.copy(path, target / path.name)


def holders() -> list[str]:
    """The folders that hold the dependencies."""
    return sorted({str(pathlib.Path(importlib.util.find_spec(name).origin).parents[1]) for name in DEPENDENCIES})
