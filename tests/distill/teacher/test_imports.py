"""The teacher's packages import one way: clients, prompts, assembly, job, inspect."""

import ast
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[3] / "distill" / "teacher"
ORDER = ("clients", "prompts", "assembly", "job", "inspect")


def imports(path):
    """The teacher's packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("distill"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("distill")}
    return {name.split(".")[2] for name in found if name.startswith("distill.teacher.")} & set(ORDER)


def test_every_module_has_its_package():
    assert {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name[0] != "_"} == set(ORDER)
    assert [path.name for path in FOLDER.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package):
    paths = list((FOLDER / package).glob("*.py"))
    assert paths
    for path in paths:
        for other in imports(path):
            assert ORDER.index(other) <= ORDER.index(package), f"{path.name} imports {other}"
