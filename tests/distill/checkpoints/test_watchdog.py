"""A process whose thread never ends is ended, with the given code and its output written."""

import subprocess
import sys

import pytest

from distill import exit_codes

PROGRAM = """
import threading
from distill.checkpoints import watchdog
threading.Thread(target=threading.Event().wait).start()
watchdog.do_not_outlive(0.1{code})
print("done", end="")
"""


@pytest.mark.parametrize("code, expected", [("", exit_codes.MACHINE), (", code=3", 3)])
def test_a_process_that_would_wait_forever_ends(code, expected):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(code=code)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (expected, "done")
