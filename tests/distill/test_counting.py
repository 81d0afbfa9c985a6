"""Counts in messages agree with their nouns, and no message writes ``row(s)``."""

import ast
import re
from pathlib import Path

from distill import counting

ROOT = Path(__file__).parents[2]


def test_nouns_agree():
    assert [counting.counted(n, "device") for n in (0, 1, 2)] == ["0 devices", "1 device", "2 devices"]
    assert (
        counting.counted(1, "batch", "batches") == "1 batch" and counting.counted(3, "batch", "batches") == "3 batches"
    )
    assert counting.form(1, "has", "have") == "has"


def test_no_message_leaves_the_number_open():
    for folder in ("distill", "tasks", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text("utf-8")
            if "(s)" in text:
                texts = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
                found = [one for one in texts if isinstance(one, str) and re.search(r"\w+\(s\)(?! =|`)", one)]
                assert not found, path
