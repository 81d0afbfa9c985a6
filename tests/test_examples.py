"""The scripts and the notebook of examples/ and the guide's snippets run, with fewer steps than they are shipped with."""

import json
import pathlib
import re

import pytest

from distill.experiments import example
from tests_support import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
GUIDE = ROOT / "docs" / "python-api.md"


@pytest.fixture(scope="module")
def run(warm, tmp_path_factory):
    """Runs a script with arguments in a folder, in a new process, and returns what it printed."""
    logs = tmp_path_factory.mktemp("logs")

    def go(arguments, folder, **environment):
        log = logs / f"{len(list(logs.iterdir()))}.txt"
        given = {"XLA_FLAGS": xla_flags(1), **environment}
        process = warm.start([*map(str, arguments)], log, given, wrapper="script_command", folder=folder)
        assert process.wait(900) == 0, process.output[-3000:]
        return process.output

    return go


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the rows of ``distill example``, few of them."""
    folder = tmp_path_factory.mktemp("examples")
    for line in example.write(folder / "rows", 200):
        assert line.startswith("wrote")
    for split in ("validation", "test"):
        path = folder / "rows" / f"{split}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))
    return folder


def test_every_script_says_its_command_and_cost():
    assert len(SCRIPTS) >= 3 and len(NOTEBOOKS) >= 1
    for path in SCRIPTS:
        header = path.read_text(encoding="utf-8").split('"""')[1]
        assert f"python examples/{path.name}" in header, path.name
        assert "Cost: " in header and "Expect " in header, path.name


@pytest.fixture(scope="module")
def guided(run, folder):
    """A student of the same rows: all Python blocks of the guide ran in order, with few steps."""
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    text, number = re.subn(r"steps=\d+", "steps=2", "\n".join(blocks))
    assert number
    (folder / "guide.py").write_text(text, encoding="utf-8")
    run(["guide.py"], folder)
    return "runs/python"


def test_the_guide_runs(guided, folder):
    assert json.loads((folder / guided / "result.json").read_text())["step"] == 2


def test_train_and_compare(run, folder, guided):
    train = ROOT / "examples" / "train_on_your_rows.py"
    printed = run([train, "--rows=rows", "--directory=runs/first", "--steps=4"], folder)
    assert re.search(r"^test accuracy: [01]\.\d{3}$", printed, re.MULTILINE), printed
    assert "because" in printed
    assert json.loads((folder / "runs" / "first" / "result.json").read_text())["step"] == 4
    compare = ROOT / "examples" / "compare_students.py"
    printed = run([compare, "runs/first", guided, "--rows=rows/test.jsonl"], folder)
    assert len(re.findall(r"^runs/\w+: accuracy [01]\.\d{3} \(95 %: ", printed, re.MULTILINE)) == 2, printed
    assert re.search(r"p = [01]\.\d{3}$", printed.strip())
    same = run([compare, "runs/first", "runs/first", "--rows=rows/test.jsonl"], folder)
    assert "only the first is right: 0 rows; only the second: 0 rows; p = 1.000" in same


def test_recorded_replies(run, tmp_path):
    script = ROOT / "examples" / "distill_recorded_replies.py"
    printed = run([script, "--directory=runs/recorded", "--rows=100", "--steps=2"], tmp_path)
    assert "100 replies, 100 with an answer" in printed
    assert "teacher accuracy: 0.900" in printed  # one reply in ten is wrong by construction
    assert re.search(r"student accuracy on gold labels: [01]\.\d{3}", printed)


def cells(path):
    """The notebook's code cells."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook(run, path, tmp_path):
    """All code cells in order, in a fresh interpreter; the steps are those that are shipped."""
    program = tmp_path / "notebook.py"
    program.write_text("\n\n".join(cells(path)), encoding="utf-8")
    # Hundreds of steps cost more than it takes to optimize the program.
    printed = run([program], tmp_path, XLA_FLAGS="", JAX_DISABLE_MOST_OPTIMIZATIONS="0")
    assert printed.count(" -> ") == 3
    accuracy = float(re.search(r"^accuracy: ([\d.]+)", printed, re.MULTILINE)[1])
    assert accuracy > 0.22  # better than guessing among five
    assert "rouge_l: " in printed and "bleu: " in printed
