"""Sweeps: designs of runs, and their training by one or many workers.

A sweep file (:mod:`reading`, :mod:`documents`) becomes a :class:`Sweep` (:mod:`runs`, :mod:`levels`, :mod:`designs`,
:mod:`budgets`); its runs are the plan of a directory (:mod:`plan`, :mod:`planning`, :mod:`inputs`, :mod:`outcomes`),
which workers train (:mod:`execution`, :mod:`scheduler`, :mod:`workers`, :mod:`search`, :mod:`leases`).
"""

from distill.exit_codes import Stopped
from distill.experiments.sweep.execution import run
from distill.experiments.sweep.levels import SEED, Level, SweepError
from distill.experiments.sweep.plan import PLAN, Entry, read_directory, read_plan
from distill.experiments.sweep.planning import failures
from distill.experiments.sweep.reading import read
from distill.experiments.sweep.runs import Run, Sweep

__all__ = [
    "PLAN",
    "SEED",
    "Entry",
    "Level",
    "Run",
    "Stopped",
    "Sweep",
    "SweepError",
    "failures",
    "read",
    "read_directory",
    "read_plan",
    "run",
]
