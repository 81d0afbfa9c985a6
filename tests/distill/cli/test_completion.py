"""``distill completion``: scripts with every command and flag, and bash itself completing with one."""

import argparse
import subprocess

import pytest

from distill.cli import main
from distill.cli import parser as command_line


def subcommands(parser):
    (action,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return action.choices


WHOLE = command_line.parser("extract")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_every_command_and_flag(shell, capsys):
    assert main.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name, parser in subcommands(WHOLE).items():
        assert name in script
        for action in parser._actions:
            if action.help != argparse.SUPPRESS:
                for flag in action.option_strings:
                    assert flag.lstrip("-") in script, f"{name} {flag}"


def test_bash_completes(tmp_path, capsys):
    assert main.main(["completion", "bash"]) == 0
    script = tmp_path / "distill"
    script.write_text(capsys.readouterr().out)

    def completed(*words):
        ask = (
            f"source {script}\nCOMP_WORDS=({' '.join(words)})\nCOMP_CWORD={len(words) - 1}\n"
            f"$(complete -p distill | sed 's/.*-F \\([^ ]*\\).*/\\1/')\necho \"${{COMPREPLY[@]}}\"\n"
        )
        return subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.split()

    assert completed("distill", "ex") == ["export", "extract"] or set(completed("distill", "ex")) >= {
        "export",
        "extract",
    }
    assert completed("distill", "export", "--quant") == ["--quantization"]
