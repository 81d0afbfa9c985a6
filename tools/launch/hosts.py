"""Plain hosts, over ssh: one process per host; all connect to the first."""

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

from distill.tools.launch import shell
from distill.tools.launch.job import Job, at_least, reject
from distill.tools.launch.machines import Machines
from distill.tools.launch.plan import Command, Plan


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Hosts reached over ssh without a password; each runs one process on its own devices.

    Attributes:
      host: [USER@]HOST, process 0 first; may repeat.
      port: port of process 0, to which the others connect.
      coordinator: the name or address of process 0 for the others; by default HOST of the first.
      restart_delay: seconds between the end of a run and its restart.
      ssh_option: NAME=VALUE for ssh's -o; may repeat.
      stop: stop the run of this --name on all hosts, with a checkpoint, instead of starting one.
    """

    host: Sequence[str]
    port: int = 8476
    coordinator: str = ""
    restart_delay: int = 10
    ssh_option: Sequence[str] = ()
    stop: bool = False

    SPLITS: ClassVar[tuple[str, ...]] = ("runs", "workers")

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("a host is missing; give --host=HOST or --host=USER@HOST, once for each host")
        for host in (*self.host, *([self.coordinator] if self.coordinator else [])):
            if not re.fullmatch(r"[A-Za-z0-9_\[][\w.@:\[\]%-]*", host, re.ASCII):
                raise reject("--host", host, "[USER@]HOST")
        names = [host.rpartition("@")[2] for host in self.host]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"--host names {twice} {names.count(twice)} times; each host runs one process, which uses all of its "
                "devices: name it once"
            )
        at_least("--port", self.port, 1)
        at_least("--restart_delay", self.restart_delay, 0)

    @property
    def machines(self) -> Machines:
        """As many as there are hosts, with unknown devices."""
        return Machines(f"{len(self.host)} hosts", processes=len(self.host), disks="own")

    def plan(self, job: Job) -> Plan:
        """One ssh per host, all at the same time."""
        job.check_processes(len(self.host), f"{len(self.host)} hosts")
        options = [
            part for option in ("BatchMode=yes", "ServerAliveInterval=60", *self.ssh_option) for part in ("-o", option)
        ]
        return Plan(
            [
                [
                    Command(["ssh", "-n", *options, host, self._script(job, process)])
                    for process, host in enumerate(self.host)
                ]
            ]
        )

    def _script(self, job: Job, process: int) -> str:
        label = job.name if len(self.host) == 1 else f"{job.name}-{process}"
        if self.stop:
            return shell.stopping(job, label)
        flags = []
        if len(self.host) > 1 and job.split != "workers":
            coordinator = self.coordinator or self.host[0].rpartition("@")[2]
            flags = ["--coordinator_address", f"{coordinator}:{self.port}"]
            flags += ["--num_processes", str(len(self.host)), "--process_id", str(process)]
        return shell.restarting(job, job.command(*flags), label, self.restart_delay)
