"""Exit codes are distinct, fit into a byte, and are those that the documentation lists."""

import os
import pathlib
import signal

from distill import exit_codes

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODES = {name: value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}


def test_codes_are_distinct_and_one_is_that_of_a_signal():
    assert len(set(CODES.values())) == len(CODES) == 8
    assert all(0 <= code < 128 for name, code in CODES.items() if name != "INTERRUPTED")
    assert exit_codes.INTERRUPTED == 128 + signal.SIGINT  # as a shell reports a process that Ctrl-C has ended


def test_two_are_those_of_sysexits():
    assert exit_codes.MACHINE == os.EX_IOERR
    assert exit_codes.STOPPED == os.EX_TEMPFAIL
    assert exit_codes.DONE == os.EX_OK


def test_the_documentation_lists_every_code():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    listed = {int(cell) for row in rows for cell in [row.split("|")[1].strip(" `")] if cell.isdigit()}
    assert set(CODES.values()) <= listed


def test_a_stop_carries_the_name_of_the_signal():
    assert str(exit_codes.Stopped("SIGTERM")) == "SIGTERM"
