"""docs/architecture.md names every module in its folder's section, and only files that exist."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\S+)/\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def modules(folder):
    """Names of the modules in a folder and its subfolders; the packages of ``distill`` have sections themselves."""
    paths = (ROOT / folder).glob("*.py") if folder == "distill" else (ROOT / folder).rglob("*.py")
    return {path.name for path in paths} - {"__init__.py"}


def test_every_package_has_a_section():
    packages = {f"distill/{path.parent.name}" for path in (ROOT / "distill").glob("*/__init__.py")}
    packages -= {"distill/tasks", "distill/tools"}  # links to the two folders below
    assert set(SECTIONS) == packages | {"distill", "tasks", "tools"}


@pytest.mark.parametrize("folder", sorted(SECTIONS))
def test_every_module_is_named_and_no_other(folder):
    named = set(re.findall(r"`(\w+\.py)`", SECTIONS[folder])) - {"__init__.py"}
    there = modules(folder)
    assert named == there, f"absent from the page: {sorted(there - named)}; not in the folder: {sorted(named - there)}"


def test_files_named_with_their_folder_exist():
    names = set(re.findall(r"`((?:distill|tasks|tools|gin|tests)/[\w/.]+)`", PAGE)) - {
        "distill/a/b.py", "tests/distill/a/test_b.py", "tasks/b.py", "tests/tasks/test_b.py",
    }  # fmt: skip
    assert len(names) > 40
    assert not sorted(name for name in names if not (ROOT / name).exists())


def test_the_order_of_the_packages_is_the_one_that_is_checked():
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("layers = [", 1)[1].split("]", 1)[0]
    checked = re.findall(r'"(\w+)"', contract)
    (listing,) = re.findall(r"^```\n( cli .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^ (\w+)  ", listing, re.MULTILINE) == checked
