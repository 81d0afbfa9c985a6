"""Lines on stderr: who prints, which lines ``quiet`` leaves, and lines of long stages."""

import contextlib
import logging
import sys
import time

import pytest

from distill import terminal
from distill.terminal import Terminal


def test_lines_and_warnings_go_to_stderr(capsys):
    out = Terminal()
    out.say("[bold]one[/bold] 12")
    out.warn("two")
    captured = capsys.readouterr()
    assert captured.err == "[bold]one[/bold] 12\nWARNING two\n"
    assert captured.out == ""


@contextlib.contextmanager
def root_without_handlers():
    """Python's root logger without pytest's handlers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        yield logging.getLogger()


def test_the_log_of_a_call_is_that_of_commands_and_a_notice_is_no_warning(capsys):
    with root_without_handlers() as root:
        logging.basicConfig(stream=sys.stderr)  # as absl calls it
        before = list(root.handlers)
        with terminal.shown_log(), terminal.shown_log():  # a function that calls another
            logging.warning("one")
            terminal.notice("two")
        assert root.handlers == before
        with terminal.shown_log(quiet=True):
            terminal.notice("three")
            logging.warning("four")
    assert capsys.readouterr().err == "WARNING one\ntwo\nWARNING four\n"


def test_a_program_that_has_its_own_logging_keeps_it(capsys):
    with root_without_handlers():
        logging.basicConfig(stream=sys.stderr, format="mine: %(message)s")
        with terminal.shown_log():
            logging.warning("one")
            terminal.notice("an INFO, which is not shown")
    assert capsys.readouterr().err == "mine: one\n"


def test_hidden_lines_are_not_shown_and_errors_are(capsys):
    with terminal.hidden():
        print("progress", file=sys.stderr)
        Terminal().warn("a warning")
        terminal.error("why it stopped")
    terminal.error("and again")
    assert capsys.readouterr().err == "why it stopped\nand again\n"


@pytest.mark.parametrize(
    "arguments, expected",
    [({"quiet": True}, "WARNING two\n"), ({"active": False}, ""), ({"active": False, "quiet": True}, "")],
)
def test_what_a_silent_terminal_prints(capsys, arguments, expected):
    out = Terminal(**arguments)
    assert out.silent
    out.say("one")
    out.warn("two")
    with out.stage("compiling"):
        pass
    assert capsys.readouterr().err == expected


def test_lines_and_warnings_are_reworded_inside_a_block(capsys):
    out = Terminal()
    with terminal.worded(str.upper):
        out.say("one")
        out.warn("two")
    out.say("three")
    assert capsys.readouterr().err == "ONE\nWARNING TWO\nthree\n"


def test_a_long_line_is_not_wrapped(capsys):
    Terminal().say("word " * 100)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_long_stage_prints_again_and_ends(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "STILL_S", 0.05)
    out = Terminal()
    with out.stage("compiling the step"):
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "compiling the step"
    assert len(lines) >= 2 and set(lines[1:]) == {"still compiling the step, 0 s"}
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_short_stage_that_is_not_announced_prints_nothing_and_lets_errors_through(capsys):
    with pytest.raises(RuntimeError, match="inside"), Terminal().stage("compiling", announce=False):
        raise RuntimeError("inside")
    assert capsys.readouterr().err == ""


def test_a_run_prints_only_the_lines_of_its_introduction_that_the_run_before_did_not_have(capsys):
    out = Terminal()

    def run(size):
        terminal.begin_run()
        with out.stage("reading rows"):
            out.introduce(f"student: {size}")
        out.introduce("2 targets are cut", warns=True)
        out.say("step 1")

    for size in (1, 1):  # runs that have nothing to do with each other
        run(size)
    both = ["reading rows", "student: 1", "WARNING 2 targets are cut", "step 1"]
    assert capsys.readouterr().err.splitlines() == both * 2
    with terminal.comparing_runs():
        for size in (1, 1, 2, 1):
            run(size)
        out.introduce("student: 1")  # of another seed
        for share in (71, 72):
            out.introduce(f"window 64: {share} % padding", compared="window 64")
    changed = ["step 1", "student: 2", "step 1", "student: 1", "step 1"]
    assert capsys.readouterr().err.splitlines() == [*both, *changed, "window 64: 71 % padding"]
