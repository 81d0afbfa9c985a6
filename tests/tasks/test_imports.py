import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "modules",
    [
        "distill.tasks.records, distill.tasks.parsers, distill.tasks.metrics, distill.tasks.arithmetic, distill.tasks.splits, distill.tasks.selection",
        "distill.tasks.dataset, distill.tasks.sources, distill.tasks.paper_files, distill.tasks.cqa, distill.tasks.svamp, distill.tasks.esnli, distill.tasks.anli1, distill.tasks.asdiv",
        "distill.tasks.jsonl",
    ],
)
def test_light_modules_import_neither_tensorflow_nor_jax(modules):
    code = f"import sys, {modules}\nprint([m for m in ('tensorflow', 'jax', 'seqio', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
