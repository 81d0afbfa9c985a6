"""Exit codes are distinct, fit into a byte, and are those that the documentation lists."""

import os
import pathlib

from distill import exit_codes

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODES = {name: value for name, value in vars(exit_codes).items() if name.isupper()}


def test_codes_are_distinct_and_none_is_that_of_a_signal():
    assert len(set(CODES.values())) == len(CODES) == 7
    assert all(0 <= code < 128 for code in CODES.values())


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
