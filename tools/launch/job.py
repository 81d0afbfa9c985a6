"""The command to launch, independent of the backend."""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Literal

from distill import exit_codes, validation

# In addition to the code of a run that saved a checkpoint: SIGTERM before the handler was set, during imports.
RESTART_CODES = (exit_codes.STOPPED, 128 + 15)
PARALLEL = ("train", "eval")
COMMANDS = (
    "cache",
    "config",
    "convert",
    "data",
    "demo",
    "eval",
    "example",
    "export",
    "extract",
    "infer",
    "inspect",
    "precompile",
    "profile",
    "replay",
    "report",
    "sweep",
    "train",
    "vocabulary",
)
"""The commands of ``distill`` that can be launched."""
_MINE = ("--multiprocess", "--coordinator_address", "--num_processes", "--process_id")
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def reject(option: str, value: object, wanted: str) -> ValueError:
    """The error for a bad option: what, expected, got."""
    return ValueError(f"{option} needs {wanted}; got {value!r}")


def at_least(option: str, value: int, least: int) -> None:
    """Raises ValueError unless ``value >= least``."""
    if value < least:
        raise reject(option, value, f"at least {least}")


@dataclasses.dataclass(frozen=True)
class Job:
    """A ``distill`` command and its surroundings on the machines that run it.

    Attributes:
      arguments: of ``distill``, from the subcommand on. Empty only to stop a run.
      name: names the job for the scheduler, and the log; at most 40 of a-z, 0-9 and -, a letter first.
      program: the program to run: "distill", or for example "python -m distill".
      directory: the working directory there; by default that of the backend.
      setup: shell lines to run before it, such as ". venv/bin/activate"; may repeat.
      env: NAME=VALUE to set there; may repeat.
      max_restarts: how often a run that was stopped may be started again.
      split: of a sweep: runs (one job per run), array (a Slurm array, one task per run) or workers (one worker per machine,
        on a shared directory); by default one job trains all runs.
      points: with split: the number of runs, or of groups of seeds; read from the sweep's file.
    """

    arguments: Sequence[str]
    name: str = "distill"
    program: str = "distill"
    directory: str = ""
    setup: Sequence[str] = ()
    env: Sequence[str] = ()
    max_restarts: int = 50
    split: Literal["", "runs", "array", "workers"] = ""
    points: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > 40:
            raise reject("--name", self.name, "at most 40 of a-z, 0-9 and -, a letter first and no - last")
        if not shlex.split(self.program):
            raise reject("--program", self.program, "a program")
        at_least("--max_restarts", self.max_restarts, 0)
        for setting in self.env:
            if not re.match(r"[A-Za-z_]\w*=", setting, re.ASCII):
                raise reject("--env", setting, "NAME=VALUE")
        texts = (*self.arguments, *self.env, *self.setup, self.directory)
        if any("\0" in text for text in texts):
            raise ValueError("a NUL character cannot be passed to a program; one is in the options")
        if self.arguments:
            self._check_command()

    def _check_command(self) -> None:
        command = self.arguments[0]
        if self.split and command != "sweep":
            raise ValueError(f"--split is for `distill sweep`; got `distill {command}`")
        if command not in COMMANDS:
            hint = validation.did_you_mean(command, COMMANDS)
            raise ValueError(f"there is no `distill {command}`; there are {', '.join(sorted(COMMANDS))}{hint}")
        for argument in self.arguments:
            if argument.partition("=")[0] in _MINE:
                raise ValueError(f"{argument.partition('=')[0]} is for the launcher to set; leave it out")

    @property
    def environment(self) -> dict[str, str]:
        """Name → value of the variables to set."""
        return {name: value for name, _, value in (setting.partition("=") for setting in self.env)}

    def command(self, *flags: str) -> list[str]:
        """The argument list to run, with ``flags`` after the job's own."""
        return [*shlex.split(self.program), *self.arguments, *flags]

    @property
    def is_parallel(self) -> bool:
        """Whether one run of the command uses all processes together."""
        if self.arguments and self.arguments[0] == "sweep":
            names = {argument.partition("=")[0] for argument in self.arguments}
            return self.split == "array" or bool(names & {"--run", "--index"})
        return bool(self.arguments) and self.arguments[0] in PARALLEL

    def check_processes(self, processes: int, option: str) -> None:
        """Raises ValueError if ``processes`` > 1 are requested for a command that runs in one."""
        if processes > 1 and self.arguments and not self.is_parallel and self.split != "workers":
            raise ValueError(
                f"only {' and '.join(PARALLEL)} run in several processes; got {self.arguments[0]} with {option}"
                + ("; give --split=workers or --split=runs" if self.arguments[0] == "sweep" else "")
            )

    def multiprocess(self) -> list[str]:
        """The flag for places where JAX finds the other processes by itself; nothing for commands of one process."""
        return ["--multiprocess"] if self.is_parallel else []

    def at(self, index: int) -> "Job":
        """The job of one point of a sweep."""
        return dataclasses.replace(
            self,
            arguments=[*self.arguments, f"--index={index}"],
            name=f"{self.name[: 39 - len(str(index))]}-{index}",
            split="",
        )
