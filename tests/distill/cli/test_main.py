"""The entry point: every command has its function, mistakes are one line with an exit code, signals end a command."""

import os
import signal
import subprocess
import sys

import pytest

from distill import exit_codes
from distill.cli import interrupts, main, runs


def test_every_command_has_a_function():
    for command in main.COMMANDS:
        assert callable(main.command_function(command)), command
    assert set(main.COMPILING) <= set(main.WITH_TENSORFLOW) <= set(main.COMMANDS)


def test_a_mistake_is_one_line_with_code_2(tmp_path, capsys):
    assert main.main(["infer", f"--input={tmp_path}/a.jsonl", f"--output={tmp_path}/b.jsonl"]) == exit_codes.MISTAKE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("distill infer: ") and captured.err.count("\n") == 1


def test_a_process_of_several_that_fails_does_not_wait_for_the_others():
    """At its end, JAX waits for processes that may wait for this one in a collective; here a function waits forever."""
    script = (
        "import atexit, sys, threading\nfrom distill.cli import main, runs\nruns.joined = True\n"
        "atexit.register(threading.Event().wait)\nsys.exit(main.main(['infer', '--input=none', '--output=x']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == exit_codes.MISTAKE, done.stderr
    assert done.stderr.startswith("distill infer: ")


MISSING = {
    "eval": ["--model_dir={path}"],
    "infer": ["--model_dir={path}", "--input=a.jsonl", "--output=b.jsonl"],
    "export": ["--model_dir={path}", "--output=x", "--format=hf"],
    "replay": ["{path}"],
    "profile": ["{path}"],
    "report": ["{path}"],
}


@pytest.mark.parametrize("command", MISSING)
def test_a_directory_that_is_missing_is_an_error_before_anything_slow(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "load_tensorflow", lambda options: pytest.fail("TensorFlow is loaded first"))
    monkeypatch.setattr(main, "command_function", lambda command: pytest.fail("the command is imported first"))
    path = tmp_path / "none"
    assert main.main([command, *(word.format(path=path) for word in MISSING[command])]) == exit_codes.MISTAKE
    assert capsys.readouterr().err.startswith(f"distill {command}: {path} does not exist; expected ")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_version_and_help_are_no_errors(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    assert caught.value.code == 0
    assert "distill" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["no-such-command"], ["example", "--no_such_flag"], ["completion", "tcsh"]])
def test_what_the_parser_refuses_has_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    assert caught.value.code == exit_codes.MISTAKE
    assert "Traceback" not in capsys.readouterr().err


def test_a_signal_raises_and_the_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    raises = interrupts.signals_raise("stopped by {}".format, None, last=False)
    with pytest.raises(interrupts.Interrupted, match="SIGTERM"), raises:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert signal.getsignal(signal.SIGTERM) is before


def test_quiet_hides_progress_and_not_output(capsys):
    assert main.main(["completion", "bash", "--quiet"]) == exit_codes.DONE
    captured = capsys.readouterr()
    assert "distill" in captured.out and captured.err == ""


def test_the_program_sets_the_garbage_collector_and_a_call_leaves_it(monkeypatch, capsys):
    set_to, before = [], {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(main.gc, "set_threshold", lambda *values: set_to.append(values))
    monkeypatch.setattr("sys.argv", ["distill", "train"])
    try:
        for arguments, times in ((["train"], 0), (None, 1)):
            assert main.main(arguments) == exit_codes.MISTAKE
            assert len(set_to) == times
    finally:
        for number, handler in before.items():  # a program no longer handles them at its end
            signal.signal(number, handler)
