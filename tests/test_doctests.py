"""The examples in docstrings run, and print what they claim."""

import doctest
import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = {"distill": "", "tasks": "distill.", "tools": "distill."}  # → what a module's name begins with


def modules_with_examples() -> list[str]:
    """Every module of the project whose source has an example, by name."""
    return [
        prefix + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder, prefix in FOLDERS.items()
        for path in sorted((ROOT / folder).rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 0, f"{name} has '>>> ' in its source, but no docstring with an example"
    assert results.failed == 0, (
        f"{results.failed} of {results.attempted} examples of {name} failed; see the output above"
    )


def test_an_example_that_prints_something_else_fails():
    def wrong():
        """
        >>> 1 + 1
        3
        """

    (example,) = doctest.DocTestFinder().find(wrong, "wrong", module=False)
    assert doctest.DocTestRunner(verbose=False).run(example, out=lambda text: None).failed == 1
