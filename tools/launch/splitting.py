"""A sweep as several jobs: one per run, a Slurm array, or one worker per machine."""

from typing import Protocol

from distill.tools.launch.job import Job
from distill.tools.launch.machines import Machines
from distill.tools.launch.plan import Plan


class Backend(Protocol):
    """A backend of the launcher."""

    SPLITS: tuple[str, ...]

    @property
    def machines(self) -> Machines:
        """The machines of one job."""

    def plan(self, job: Job) -> Plan:
        """The commands that start a job."""


def plan_of(backend: Backend, job: Job) -> Plan:
    """Returns the plan of a job, split by ``job.split``.

    With ``runs``, each run is a job whose name ends in its number. Jobs of a scheduler are submitted one after another and
    run as it decides. On one TPU or the same hosts (gcloud, hosts), a run starts when the one before it has ended.

    Raises:
      ValueError: the backend cannot split a sweep that way.
    """
    if job.split and job.split not in backend.SPLITS:
        name = type(backend).__name__.lower()
        raise ValueError(f"--split={job.split} is not for {name}, which takes {' or '.join(backend.SPLITS)}")
    if job.split != "runs":
        return backend.plan(job)
    seen, steps = set(), []
    for index in range(job.points):
        for step in backend.plan(job.at(index)).steps:
            if repr(step) not in seen:  # a step that all jobs share, such as the creation of the TPU, is done once
                seen.add(repr(step))
                steps.append(step)
    return Plan(steps)
