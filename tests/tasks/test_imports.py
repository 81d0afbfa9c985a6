import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "modules",
    [
        ("records", "parsers", "metrics", "arithmetic", "splits", "selection"),
        ("dataset", "sources", "paper_files", "cqa", "svamp", "esnli", "anli1", "asdiv"),
        ("jsonl",),
    ],
)
def test_light_modules_import_neither_tensorflow_nor_jax(modules):
    names = ", ".join(f"distill.tasks.{name}" for name in modules)
    code = f"import sys, {names}\nprint([m for m in ('tensorflow', 'jax', 'seqio', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
