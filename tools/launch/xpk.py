"""GKE, through xpk: a JobSet of one pod per machine."""

import dataclasses
import re
from typing import ClassVar

from distill.tools.launch import quoting
from distill.tools.launch.job import RESTART_CODES, Job, at_least, reject
from distill.tools.launch.machines import Machines, tpu
from distill.tools.launch.plan import Command, Plan

# xpk sets these in GPU pods; on TPUs, JAX finds the processes.
_GPU_FLAGS = (
    "--coordinator_address $JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT"
    " --num_processes $NNODES --process_id $NODE_RANK"
)


@dataclasses.dataclass(frozen=True)
class Xpk:
    """A workload on a GKE cluster made by xpk. The image holds the program; nothing is installed at the start.

    Attributes:
      cluster: the cluster's name.
      docker_image: the image to run, with distill in it.
      tpu_type: the TPU slice, such as v5litepod-16.
      gpu_type: a machine with GPUs, by xpk's name, such as h100-mega-80gb-8, instead of a TPU.
      num_slices: of TPUs.
      num_nodes: machines with GPUs.
      zone: of the cluster; by default gcloud's own.
      project: of the cluster; by default gcloud's own.
      priority: of xpk: very-low, low, medium, high or very-high.
      spot: where the cluster provisions nodes itself: capacity that may be taken away.
      notice: seconds that an evicted pod has to save a checkpoint.
    """

    cluster: str
    docker_image: str
    tpu_type: str = ""
    gpu_type: str = ""
    num_slices: int = 1
    num_nodes: int = 1
    zone: str = ""
    project: str = ""
    priority: str = "medium"
    spot: bool = False
    notice: int = 120

    SPLITS: ClassVar[tuple[str, ...]] = ("runs",)

    def __post_init__(self) -> None:
        if bool(self.tpu_type) == bool(self.gpu_type):
            raise ValueError("either --tpu_type or --gpu_type; got " + ("both" if self.tpu_type else "neither"))
        if self.gpu_type and self.num_slices != 1:
            raise ValueError(
                f"--num_slices goes with --tpu_type; with --gpu_type use --num_nodes; got {self.num_slices}"
            )
        if self.tpu_type and self.num_nodes != 1:
            raise ValueError(
                f"--num_nodes goes with --gpu_type; with --tpu_type use --num_slices; got {self.num_nodes}"
            )
        for option in ("num_slices", "num_nodes", "notice"):
            at_least(f"--{option}", getattr(self, option), 1)

    @property
    def machines(self) -> Machines:
        """The slices, or the machines with GPUs, whose number ends the name of their type."""
        if self.tpu_type:
            slices = f" --num_slices={self.num_slices}" if self.num_slices > 1 else ""
            return tpu(f"--tpu_type={self.tpu_type}{slices}", self.tpu_type, self.num_slices)
        found = re.fullmatch(r".*-(\d+)", self.gpu_type)
        devices = int(found[1]) * self.num_nodes if found else None
        option = f"--gpu_type={self.gpu_type} --num_nodes={self.num_nodes}"
        return Machines(option, "gpu", devices=devices, processes=self.num_nodes, disks="lost")

    def plan(self, job: Job) -> Plan:
        """One ``xpk workload create``."""
        if job.setup:
            raise reject("--setup", job.setup[0], "nothing with xpk, where the image is set up already")
        job.check_processes(max(self.num_slices, self.num_nodes), "several slices or nodes")
        arguments = ["xpk", "workload", "create", f"--workload={job.name}", f"--cluster={self.cluster}"]
        if self.tpu_type:
            arguments += [f"--tpu-type={self.tpu_type}", f"--num-slices={self.num_slices}"]
        else:
            arguments += [f"--device-type={self.gpu_type}", f"--num-nodes={self.num_nodes}"]
        arguments += [f"--docker-image={self.docker_image}"]
        arguments += [f"--{name}={getattr(self, name)}" for name in ("zone", "project") if getattr(self, name)]
        arguments += [f"--priority={self.priority}", *(["--spot"] if self.spot else [])]
        arguments += [
            f"--max-restarts={job.max_restarts}",
            f"--restart-on-exit-codes={','.join(map(str, RESTART_CODES))}",
        ]
        arguments += [f"--termination-grace-period-seconds={self.notice}", f"--command={self._command(job)}"]
        return Plan([[Command(arguments)]])

    def _command(self, job: Job) -> str:
        """The command, which replaces its shell: xpk forwards SIGTERM to that process."""
        flags = "" if self.tpu_type or self.num_nodes == 1 else f" {_GPU_FLAGS}"
        words = job.command(*(job.multiprocess() if self.tpu_type else []))
        if job.env:
            words = ["env", *job.env, *words]
        enter = f"cd {quoting.embedded_words([job.directory])} && " if job.directory else ""
        return f"{enter}exec {quoting.embedded_words(words)}{flags}"
