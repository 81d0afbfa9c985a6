"""Commands to run and files to write: shown as a shell script, or executed."""

import dataclasses
import itertools
import shutil
import subprocess
import sys
from collections.abc import Sequence

from distill import atomic_files, outputs
from distill.exit_codes import SOME_FAILED
from distill.tools.launch import quoting
from distill.tools.launch.job import RESTART_CODES

HOW_TO_GET = {
    "gcloud": "install the Google Cloud CLI, which brings it",
    "sbatch": "run this on a login node of the Slurm cluster",
    "sky": "pip install 'skypilot[gcp]', or another cloud's extra",
    "ssh": "install an OpenSSH client",
    "xpk": "pip install xpk",
}


@dataclasses.dataclass(frozen=True)
class Command:
    """A program with its arguments, and its standard input, if any."""

    arguments: Sequence[str]
    stdin: str | None = None

    def shell(self) -> str:
        """The command as shell text."""
        text = quoting.words(self.arguments)
        return text if self.stdin is None else f"{text} {_heredoc(self.stdin)}"


_MARK = "# Written by distill launch.\n"


@dataclasses.dataclass(frozen=True)
class File:
    """A text to write before the commands after it run; begins with a comment that says what wrote it."""

    path: str
    text: str

    def shell(self) -> str:
        """The shell text that writes it."""
        return f"cat > {quoting.words([self.path])} {_heredoc(_MARK + self.text)}"

    def check(self) -> None:
        """Raises ValueError if the path holds another file than an earlier one of this command."""
        is_own = lambda file: file.read(len(_MARK)) == _MARK.encode()  # noqa: E731
        outputs.check_own("the file", self.path, is_own, "distill launch", remedy="delete it")

    def write(self) -> None:
        """Writes the file."""
        atomic_files.replace(self.path, _MARK + self.text)


def _heredoc(text: str) -> str:
    delimiter, lines = "EOF", text.split("\n")
    while delimiter in lines:
        delimiter += "_"
    return f"<<'{delimiter}'\n{text}{'' if text.endswith(chr(10)) else chr(10)}{delimiter}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Steps, one after the other; the parts of one step run at the same time."""

    steps: Sequence[Sequence[Command | File]]

    def commands(self) -> list[Command]:
        """The commands of all steps."""
        return [item for step in self.steps for item in step if isinstance(item, Command)]

    def shell(self) -> str:
        """The plan as a shell script that does the same."""
        lines = []
        for step in self.steps:
            together = len(step) > 1
            lines += [f"{item.shell()} &" if together else item.shell() for item in step]
            lines += ["wait"] if together else []
        return "\n".join(lines) + "\n"


def run(plan: Plan) -> int:
    """Executes the plan; returns the exit code of the first step that failed.

    After a step with a failed run of a sweep (exit code 4) the others are executed all the same.

    Among the commands of a step, a code that is not restarted takes precedence over 75, and 75 over 0.

    Raises:
      FileNotFoundError: a program is missing; gives the way to install it. Nothing was run or written then.
      ValueError: a file to be written exists, and is none of this command. Nothing was run or written then.
    """
    for program in dict.fromkeys(command.arguments[0] for command in plan.commands()):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{program} is not on the PATH; {HOW_TO_GET.get(program, 'install it')}")
    for item in itertools.chain(*plan.steps):
        if isinstance(item, File):
            item.check()
    worst = 0
    for step in plan.steps:
        for item in step:
            if isinstance(item, File):
                item.write()
                print(f"wrote {item.path}", file=sys.stderr)
        codes = _run_together([item for item in step if isinstance(item, Command)])
        failed = [code for code in codes if code != 0]
        code = next((code for code in failed if code not in RESTART_CODES), failed[0] if failed else 0)
        if code not in (0, SOME_FAILED):
            return code
        worst = max(worst, code)
    return worst


def _run_together(commands: Sequence[Command]) -> list[int]:
    running: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            reads = None if command.stdin is None else subprocess.PIPE
            running.append(subprocess.Popen(list(command.arguments), stdin=reads, text=True, encoding="utf-8"))
            if command.stdin is not None:
                running[-1].communicate(command.stdin)
        codes = [process.wait() for process in running]
    except BaseException:
        for process in running:
            process.terminate()
        raise
    return [128 - code if code < 0 else code for code in codes]
