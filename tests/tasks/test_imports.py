import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "modules",
    [
        "tasks.records, tasks.parsers, tasks.metrics, tasks.arithmetic, tasks.splits, tasks.selection",
        "tasks.dataset, tasks.sources, tasks.paper_files, tasks.cqa, tasks.svamp, tasks.esnli, tasks.anli1, tasks.asdiv",
        "tasks.jsonl",
    ],
)
def test_light_modules_import_neither_tensorflow_nor_jax(modules):
    code = f"import sys, {modules}\nprint([m for m in ('tensorflow', 'jax', 'seqio', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
