"""Every module ``distill/a/b.py`` has a test file of its name, ``tests/distill/a/test_b.py``."""

import pathlib

import pytest

from tests_support import LONGEST_FIRST

ROOT = pathlib.Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
PACKAGES = (
    "api", "checkpoints", "cli", "data", "experiments", "inference", "model", "precompile", "sharding", "training",
)  # fmt: skip
# The tests of data/cache/ are in one file, since no module of it is used without the others.
ONE_FILE = {"distill/data/cache": "distill/data/test_cache.py"}


def modules():
    """The modules of the packages above and of ``distill`` itself, as paths from the root."""
    paths = [path for package in PACKAGES for path in (ROOT / "distill" / package).rglob("*.py")]
    paths += (ROOT / "distill").glob("*.py")
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if not path.name.startswith("__"))


def mirror(module):
    """The test file of a module, as a path from ``tests/``."""
    path = pathlib.PurePosixPath(module)
    return ONE_FILE.get(str(path.parent), str(path.with_name(f"test_{path.name}")))


def test_the_packages_are_all_of_the_program():
    found = {path.parent.name for path in (ROOT / "distill").glob("*/__init__.py")}
    assert found - set(PACKAGES) == {"tasks", "tools", "teacher", "t5x"}  # their tests are ordered by behaviour
    assert len(modules()) > 80


@pytest.mark.parametrize("module", modules())
def test_a_module_has_its_test_file(module):
    path = TESTS / mirror(module)
    assert path.exists(), f"{module} has no test file: write tests/{mirror(module)}"
    assert "def test_" in path.read_text(encoding="utf-8"), f"tests/{mirror(module)} has no test"


@pytest.mark.parametrize(
    "path", sorted(path for path in TESTS.glob("distill/**/test_*.py")), ids=lambda path: path.stem
)
def test_no_test_is_defined_twice(path):
    """Of two tests with the same name in a file, Python keeps only the second."""
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [line.split("(")[0] for line in lines if line.startswith("def test_")]
    assert len(names) == len(set(names)), f"{path.relative_to(ROOT)} defines a test twice"


def test_the_files_to_start_first_exist():
    assert [name for name in LONGEST_FIRST if not (ROOT / name).is_file()] == []
