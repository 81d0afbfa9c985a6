"""The project as a user gets it: a wheel, built from the sdist, in an environment without the checkout."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import filelock
import pytest

from tests_support import xla_flags
from wheel_sources import copy_sources, holders


def _checked(command: Sequence[str | pathlib.Path], **kwargs) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Installed:
    """An environment with the wheel.

    Attributes:
      folder: of the environment.
      sdist, wheel: the files that were built.
      package: the folder of the installed ``distill``.
    """

    def __init__(self, folder: pathlib.Path, sdist: pathlib.Path, wheel: pathlib.Path):
        self.folder, self.sdist, self.wheel = folder, sdist, wheel
        self.package = next(folder.glob("lib/python*/site-packages")) / "distill"
        kept = ("PATH", "HOME", "TMPDIR", "LANG", "HF_HUB_OFFLINE")
        kept += ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
        self.environment = {name: value for name, value in os.environ.items() if name in kept}
        self.environment |= {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": xla_flags(1),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        }

    def program(self, *arguments: str, folder: pathlib.Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Runs the console script ``distill``; ``more`` is added to its environment."""
        return subprocess.run(
            [str(self.folder / "bin" / "distill"), *arguments],
            cwd=folder,
            env=self.environment | more,
            capture_output=True,
            text=True,
        )

    def walk(self, commands: Sequence[Sequence[str]], folder: pathlib.Path) -> list[dict]:
        """Runs commands in one process; one dict of ``code``, ``out``, ``err`` and ``seconds`` for each."""
        text = _checked(
            [self.folder / "bin" / "python", pathlib.Path(__file__).with_name("walk.py")],
            input=json.dumps(commands),
            cwd=folder,
            env=self.environment,
        )
        found = json.loads(text.splitlines()[-1])
        assert pathlib.Path(found["from"]).parent == self.package
        return found["done"]


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Installed:
    """Builds the sdist and from it the wheel, without a network, and installs the wheel into a new environment.

    The first worker that requests it does so for all.
    """
    base = tmp_path_factory.getbasetemp()
    top = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel"
    with filelock.FileLock(f"{top}.lock"):
        if not (top / "ready").exists():
            _build_and_install(top)
            (top / "ready").touch()
    (sdist,), (wheel,) = (top / "built").glob("*.tar.gz"), (top / "built").glob("*.whl")
    return Installed(top / "environment", sdist, wheel)


def _build_and_install(top: pathlib.Path) -> None:
    source, built, folder = top / "source", top / "built", top / "environment"
    top.mkdir()
    copy_sources(source)
    built.mkdir()
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(built)!r})"
    _checked([sys.executable, "-c", build], cwd=source)
    (sdist,) = built.glob("*.tar.gz")
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _checked([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", built, sdist], cwd=top)
    (wheel,) = built.glob("*.whl")
    _checked([sys.executable, "-m", "venv", "--without-pip", folder])
    _checked(
        [*pip, "--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel], cwd=top, env=plain
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    # A .pth file is not read for the .pth files in the folders that it names: this checkout's editable finder stays out.
    (packages / "dependencies.pth").write_text("\n".join(holders()) + "\n")
