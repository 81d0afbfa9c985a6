"""The teacher's modules import one way: clients, then prompts, then assembly, then the job; commands last."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[3]
ORDER = ("clients", "prompts", "assembly", "job", "inspect", "commands")
ROOMS = {
    "clients": (
        "replies", "completion", "cost", "gate", "redaction", "transport", "store", "server", "batch", "recorded", "local",
    ),
    "prompts": ("prompt", "parsing", "templates", "labels"),
    "assembly": ("asked", "selection", "voting", "rows", "provenance", "assembly"),
    "job": ("job", "prompting", "progress", "collect", "dry_run", "extraction"),
    "commands": ("commands",),
}  # fmt: skip


def imports(path):
    """The project's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("distill"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("distill")}
    return found


def room_of(name):
    parts = name.split(".")
    if parts[:2] == ["distill", "inspect"]:
        return "inspect"
    if parts[:2] == ["distill", "teacher"] and len(parts) > 2:
        return next((room for room, modules in ROOMS.items() if parts[2] in modules), None)
    return None


def test_every_module_has_its_room():
    modules = {path.stem for path in (ROOT / "distill/teacher").glob("*.py")} - {"__init__"}
    assert modules == {module for modules in ROOMS.values() for module in modules}


@pytest.mark.parametrize("room", ORDER)
def test_imports_go_one_way(room):
    folder = ROOT / "distill" / ("inspect" if room == "inspect" else "teacher")
    paths = folder.glob("*.py") if room == "inspect" else [folder / f"{module}.py" for module in ROOMS[room]]
    for path in paths:
        for name in imports(path):
            other = room_of(name)
            assert other is None or ORDER.index(other) <= ORDER.index(room), f"{path.name} imports {name}"
