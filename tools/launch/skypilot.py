"""SkyPilot: a task file for a managed job, which SkyPilot recovers."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from distill.tools.launch import quoting, shell
from distill.tools.launch.job import RESTART_CODES, Job, at_least, reject
from distill.tools.launch.machines import Machines, tpu
from distill.tools.launch.plan import Command, File, Plan


@dataclasses.dataclass(frozen=True)
class Skypilot:
    """A managed job of SkyPilot, on a cloud or on Kubernetes.

    Attributes:
      accelerators: in SkyPilot's spelling: tpu-v5litepod-16, H100:8.
      infra: where: gcp, gcp/us-west4, kubernetes …; by default SkyPilot's choice.
      num_nodes: machines with GPUs, or 1 TPU slice.
      spot: capacity that may be taken away.
      strategy: where a job recovers: elsewhere at once, or first in the same region.
      workdir: the folder that is copied there, and where setup and command run.
      file_mount: REMOTE=LOCAL paths, or REMOTE=BUCKET; may repeat.
      image: a machine or container image, in SkyPilot's spelling.
      port: port of process 0, to which the others connect, on GPUs.
      notice: seconds for a checkpoint when Kubernetes takes a pod away.
      task_file: where to write the task; by default NAME.sky.yaml.
    """

    accelerators: str
    infra: str = ""
    num_nodes: int = 1
    spot: bool = False
    strategy: Literal["EAGER_NEXT_REGION", "FAILOVER"] = "EAGER_NEXT_REGION"
    workdir: str = "."
    file_mount: Sequence[str] = ()
    image: str = ""
    port: int = 8476
    notice: int = 120
    task_file: str = ""

    SPLITS: ClassVar[tuple[str, ...]] = ("runs", "workers")

    def __post_init__(self) -> None:
        for option in ("num_nodes", "port", "notice"):
            at_least(f"--{option}", getattr(self, option), 1)
        if self.is_tpu and self.num_nodes != 1:
            raise reject("--num_nodes", self.num_nodes, "1 with TPUs, which are one slice; xpk runs several slices")
        for mount in self.file_mount:
            if not all(mount.partition("=")):
                raise reject("--file_mount", mount, "REMOTE=LOCAL")

    @property
    def is_tpu(self) -> bool:
        """Whether the accelerators are TPUs."""
        return self.accelerators.lower().startswith("tpu")

    @property
    def _on_kubernetes(self) -> bool:
        return self.infra.lower().partition("/")[0] in ("kubernetes", "k8s")

    @property
    def machines(self) -> Machines:
        """The slice, or the GPUs of all machines: ``H100:8`` are eight of each."""
        option = f"--accelerators={self.accelerators}"
        if self.is_tpu:
            return tpu(option, self.accelerators.partition(":")[0])
        found = re.fullmatch(r"[\w-]+(?::(\d+))?", self.accelerators)
        devices = int(found[1] or 1) * self.num_nodes if found else None
        option += f" --num_nodes={self.num_nodes}"
        return Machines(option, "gpu", devices=devices, processes=self.num_nodes, disks="lost")

    def plan(self, job: Job) -> Plan:
        """Writes the task file and launches it as a managed job."""
        path = self.task_file or f"{job.name}.sky.yaml"
        launch = Command(["sky", "jobs", "launch", "--yes", f"--name={job.name}", path])
        return Plan([[File(path, _yaml(self.task(job)))], [launch]])

    def task(self, job: Job) -> dict[str, Any]:
        """The task, as SkyPilot's YAML has it."""
        job.check_processes(self.num_nodes, f"--num_nodes={self.num_nodes}")
        recovery = {"strategy": self.strategy, "recover_on_exit_codes": list(RESTART_CODES)}
        resources = {
            "infra": self.infra,
            "accelerators": self.accelerators,
            "image_id": self.image,
            "use_spot": self.spot,
            "job_recovery": recovery,
        }
        task = {
            "name": job.name,
            "workdir": self.workdir,
            "num_nodes": self.num_nodes,
            "resources": {name: value for name, value in resources.items() if value},
            "file_mounts": {remote: local for remote, _, local in (mount.partition("=") for mount in self.file_mount)},
            "envs": job.environment,
            "setup": "".join(f"{line}\n" for line in job.setup),
            "run": self._run(job),
            "config": {"hooks": [self._hook(job)]} if self._on_kubernetes else {},
        }
        return {name: value for name, value in task.items() if value}

    def _run(self, job: Job) -> str:
        """The script of each machine. It ends without ``exit``: SkyPilot appends lines that wait for uploads."""
        command = quoting.words(job.command(*(job.multiprocess() if self.is_tpu else [])))
        if self.num_nodes > 1 and job.split != "workers":
            head = '"$(echo "$SKYPILOT_NODE_IPS" | head -n 1)'
            command += f' --coordinator_address {head}:{self.port}"'
            command += ' --num_processes "$SKYPILOT_NUM_NODES" --process_id "$SKYPILOT_NODE_RANK"'
        forward = 'kill -TERM "$child"'
        lines = [
            *([f"cd {quoting.words([job.directory])} || exit 2"] if job.directory else []),
            *shell.forwarding(forward),
            f'echo "$$" > "$HOME/.{job.name}.pid"',
            *shell.child(command, forward),
            f'rm -f "$HOME/.{job.name}.pid"',
            '(exit "$status")',
        ]
        return "\n".join(lines) + "\n"

    def _hook(self, job: Job) -> dict[str, Any]:
        """Kubernetes' notice, passed on: SkyPilot runs this on every machine before a pod goes."""
        process = f'"$HOME/.{job.name}.pid"'
        lines = [
            f'run=$(cat {process}) && kill -TERM "$run" || exit 0',
            f'while [ -e {process} ] && kill -0 "$run" 2>/dev/null; do sleep 1; done',
        ]
        return {"run": "\n".join(lines) + "\n", "events": ["preemption"], "timeout": self.notice}


def _yaml(task: dict[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Scripts as blocks, in the order given."""

    def block(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
        # In a block, YAML would turn rare line breaks such as U+0085 into plain ones.
        plain = all(character.isprintable() or character == "\n" for character in text)
        style = ("|" if text.endswith("\n") else None) if plain else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, block)
    return yaml.dump(task, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
