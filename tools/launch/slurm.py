"""Slurm: a batch script that is requeued when its run was stopped."""

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

from distill.tools.launch import quoting, shell
from distill.tools.launch.job import Job, at_least, reject
from distill.tools.launch.machines import Machines
from distill.tools.launch.plan import Command, Plan

# Not through srun: a SIGTERM to srun itself makes it kill its tasks at once, without time for a checkpoint.
_FORWARD = 'scancel --signal=TERM "$SLURM_JOB_ID"'


@dataclasses.dataclass(frozen=True)
class Slurm:
    """A Slurm job; by default one process per node, which uses all of the node's GPUs.

    Attributes:
      nodes: machines.
      gpus_per_node: GPUs of each; 0 for none.
      tasks_per_node: processes of each: 1, or gpus_per_node for one per GPU.
      cpus_per_task: CPU cores of each process; by default the cluster's choice.
      mem: memory of each node, such as 200G; by default the cluster's choice.
      time: the limit of one start, such as 24:00:00; at the limit the job saves, and queues again.
      partition: where to queue.
      account: the account to charge.
      qos: quality of service.
      constraint: features that nodes must have.
      output: the log, in Slurm's spelling; by default NAME-JOB.log.
      notice: seconds before the time limit at which to save a checkpoint.
      max_parallel: with --split=array: the number of tasks that run at once; 0 for no limit.
      sbatch_option: another option of sbatch, such as --exclusive; may repeat.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int = 1
    cpus_per_task: int = 0
    mem: str = ""
    time: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    output: str = ""
    notice: int = 120
    max_parallel: int = 0
    sbatch_option: Sequence[str] = ()

    SPLITS: ClassVar[tuple[str, ...]] = ("runs", "array", "workers")

    def __post_init__(self) -> None:
        for option, least in (
            ("nodes", 1),
            ("gpus_per_node", 0),
            ("tasks_per_node", 1),
            ("cpus_per_task", 0),
            ("notice", 1),
            ("max_parallel", 0),
        ):
            at_least(f"--{option}", getattr(self, option), least)
        if self.gpus_per_node and self.tasks_per_node not in (1, self.gpus_per_node):
            raise reject("--tasks_per_node", self.tasks_per_node, f"1 or --gpus_per_node, {self.gpus_per_node}")
        for option in ("mem", "time", "partition", "account", "qos", "constraint", "output"):
            if re.search(r"[\s'\"\\#]", getattr(self, option)):
                raise reject(f"--{option}", getattr(self, option), "a value without spaces, quotes, backslashes and #")
        for option in self.sbatch_option:
            if not re.fullmatch(r"--[a-z][^\n\r#]*", option):
                raise reject("--sbatch_option", option, "an option such as --exclusive")

    @property
    def machines(self) -> Machines:
        """The GPUs of all nodes; without ``--gpus_per_node``, other options may request them."""
        option, processes = f"--nodes={self.nodes}", self.nodes * self.tasks_per_node
        if not self.gpus_per_node:
            return Machines(option, processes=processes)
        option += f" --gpus_per_node={self.gpus_per_node}"
        return Machines(option, "gpu", devices=self.nodes * self.gpus_per_node, processes=processes)

    def plan(self, job: Job) -> Plan:
        """``sbatch``, which reads the script from standard input."""
        return Plan([[Command(["sbatch"], stdin=self.script(job))]])

    def script(self, job: Job) -> str:
        """The batch script."""
        processes = self.nodes * self.tasks_per_node
        job.check_processes(processes, f"{processes} tasks")
        if re.search(r"[\s'\"\\#]", job.directory):
            raise reject("--directory", job.directory, "a path without spaces, quotes, backslashes and #")
        srun = [
            "srun",
            "--kill-on-bad-exit=0",
            *([f"--cpus-per-task={self.cpus_per_task}"] if self.cpus_per_task else []),
        ]
        command = quoting.words([*srun, *job.command(*(job.multiprocess() if processes > 1 else []))])
        command += ' "--index=$SLURM_ARRAY_TASK_ID"' if job.split == "array" else ""
        lines = [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in self._options(job)),
            *shell.preparation(job, change_directory=False),
            *self._all_gpus(),
            *shell.forwarding(_FORWARD, "TERM"),
            *shell.child(command, _FORWARD),
            f'case "$status" in {shell.RESTARTABLE})',
            '  case "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" in',
            '  CANCELLED* | COMPLETING*) echo "launch: cancelled; not queued again" >&2 ;;',
            "  *)",
            f'    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {job.max_restarts} ]; then',
            '      echo "launch: exit code $status; queued again" >&2',
            '      scontrol requeue "$SLURM_JOB_ID"',
            "    fi ;;",
            "  esac ;;",
            "esac",
            'exit "$status"',
        ]
        return "\n".join(lines) + "\n"

    def _options(self, job: Job) -> list[str]:
        given = {
            "job-name": job.name,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks_per_node,
            "gpus-per-node": self.gpus_per_node,
            "cpus-per-task": self.cpus_per_task,
            "mem": self.mem,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "chdir": job.directory,
            "array": self._array(job),
            "output": self.output or ("%x-%A_%a.log" if job.split == "array" else "%x-%j.log"),
            "open-mode": "append",
            "signal": f"B:TERM@{self.notice}",
        }
        return [*(f"--{name}={value}" for name, value in given.items() if value), "--requeue", *self.sbatch_option]

    def _array(self, job: Job) -> str:
        """The tasks of an array: one per point of the sweep."""
        if job.split != "array":
            return ""
        return f"0-{job.points - 1}" + (f"%{self.max_parallel}" if self.max_parallel else "")

    def _all_gpus(self) -> list[str]:
        """Under Slurm, JAX assigns one GPU to a process unless the devices are given."""
        if self.gpus_per_node > 1 and self.tasks_per_node == 1:
            return [f"export JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(self.gpus_per_node)))}"]
        return []
