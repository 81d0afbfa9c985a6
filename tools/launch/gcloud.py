"""Cloud TPU VMs, through ``gcloud compute tpus tpu-vm ssh --worker=all``."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from distill.tools.launch import shell
from distill.tools.launch.job import Job, at_least, reject
from distill.tools.launch.machines import Machines, tpu
from distill.tools.launch.plan import Command, Plan


@dataclasses.dataclass(frozen=True)
class Gcloud:
    """A TPU VM or a pod slice of them; each worker runs one process, and JAX finds the others by itself.

    Attributes:
      tpu: the TPU's name.
      zone: its zone, such as us-west4-a.
      project: its project; by default gcloud's own.
      worker: the workers that run the command: all, or a number.
      create: create the TPU first; needs accelerator_type and runtime_version.
      accelerator_type: with create: the accelerator type, such as v5litepod-16.
      runtime_version: with create: the TPU software, such as v2-alpha-tpuv5-lite for v5e.
      spot: with create: capacity that may be taken away at any time.
      preemptible: with create: the older kind of spot, gone after 24 hours at the latest.
      internal_ip: connect to internal addresses.
      ssh_flag: a flag for ssh, as gcloud's --ssh-flag takes it; may repeat.
      restart_delay: seconds between the end of a run and its restart.
      stop: stop the run of this --name on the workers, with a checkpoint, instead of starting one.
    """

    tpu: str
    zone: str
    project: str = ""
    worker: str = "all"
    create: bool = False
    accelerator_type: str = ""
    runtime_version: str = ""
    spot: bool = False
    preemptible: bool = False
    internal_ip: bool = False
    ssh_flag: Sequence[str] = ()
    restart_delay: int = 10
    stop: bool = False

    SPLITS: ClassVar[tuple[str, ...]] = ("runs",)

    def __post_init__(self) -> None:
        if self.tpu.startswith("-") or not self.tpu:
            raise reject("--tpu", self.tpu, "the name of a TPU")
        if self.create and not (self.accelerator_type and self.runtime_version):
            raise ValueError("--create needs --accelerator_type and --runtime_version")
        if not self.create and (self.accelerator_type or self.runtime_version or self.spot or self.preemptible):
            raise ValueError("--accelerator_type, --runtime_version, --spot and --preemptible go with --create")
        if self.spot and self.preemptible:
            raise ValueError("--spot or --preemptible; got both")
        if self.create and self.stop:
            raise ValueError("--create or --stop; got both")
        at_least("--restart_delay", self.restart_delay, 0)

    @property
    def machines(self) -> Machines:
        """The TPU that is created; of another one, only that it is a TPU."""
        if self.create and self.worker == "all":
            return tpu(f"--accelerator_type={self.accelerator_type}", self.accelerator_type)
        return Machines(f"--tpu={self.tpu}", "tpu", disks="lost")

    def plan(self, job: Job) -> Plan:
        """Creates the TPU if requested, then runs the command on its workers."""
        job.check_processes(2 if self.worker == "all" else 1, f"--worker={self.worker}")
        place = [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else [])]
        tpu_vm = ["gcloud", "compute", "tpus", "tpu-vm"]
        create = [*tpu_vm, "create", self.tpu, *place, f"--accelerator-type={self.accelerator_type}"]
        create += [f"--version={self.runtime_version}"]
        create += [f"--{name}" for name in ("spot", "preemptible") if getattr(self, name)]
        ssh = [*tpu_vm, "ssh", self.tpu, *place, f"--worker={self.worker}"]
        ssh += ["--internal-ip"] if self.internal_ip else []
        ssh += [f"--ssh-flag={flag}" for flag in self.ssh_flag]
        ssh += [f"--command={self._script(job)}"]
        return Plan([*([[Command(create)]] if self.create else []), [Command(ssh)]])

    def _script(self, job: Job) -> str:
        if self.stop:
            return shell.stopping(job, job.name)
        return shell.restarting(job, job.command(*job.multiprocess()), job.name, self.restart_delay)
