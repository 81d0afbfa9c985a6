"""Training curves, the students before distillation, differences between configurations, and provenance."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.experiments.report import statistics
from distill.experiments.report.collect import Run
from distill.experiments.report.evidence import Evidence
from distill.experiments.report.settings import Cell, Part, plain
from distill.experiments.sweep.files import read_evaluations
from distill.training import event_files, reporting


@dataclasses.dataclass(frozen=True)
class Before:
    """The students' score before distillation, as shown: of ``split``, with the interval over seeds."""

    split: str
    score: statistics.Interval
    runs: int


def before(evidence: Evidence) -> Before | None:
    """Returns the score before distillation; None if it is not known.

    It comes from runs of at most one update, or from evaluations at step 0, on the test rows if there is one and else on
    validation.
    """
    untrained = [run.score(evidence.metric) for run in evidence.part.before]
    untrained = [evidence.scale * score for score in untrained if math.isfinite(score)]
    if untrained:
        return Before("test", evidence.mean_interval(untrained), len(untrained))
    for split in ("test", "validation"):
        scores = []
        for run in evidence.part.runs:
            metric = evidence.metric if split == "test" else str(run.record["selection"]["metric"])
            found = [e for e in read_evaluations(run.directory) if e["step"] == 0 and e["split"] == split]
            value = found[-1].get(metric) if found else None
            if isinstance(value, (int, float)) and math.isfinite(value):
                scores.append(evidence.scale * float(value))
        if scores:
            return Before(split, evidence.mean_interval(scores), len(scores))
    return None


@dataclasses.dataclass(frozen=True)
class History:
    """A setting's mean over seeds at the steps that all of its runs have."""

    name: str
    points: tuple[tuple[int, float], ...]


def _mean(name: str, runs: Sequence[Mapping[int, float]]) -> History | None:
    common = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    points = tuple((step, float(np.mean([run[step] for run in runs]))) for step in common)
    return History(name, points) if points else None


def validation_curves(evidence: Evidence, cells: Sequence[Cell]) -> list[History]:
    """The metric that selects, on validation, by step."""
    out = []
    for cell in cells:
        runs = []
        for run in cell.runs:
            metric = str(run.record["selection"]["metric"])
            found = read_evaluations(run.directory)
            by_step = {e["step"]: e.get(metric) for e in found if e["split"] != "test"}
            runs.append({s: evidence.scale * v for s, v in by_step.items() if isinstance(v, (int, float))})
        out.append(_mean(cell.label, runs))
    return [each for each in out if each is not None]


def loss_curves(cells: Sequence[Cell], tag: str = "train/loss/label") -> list[History]:
    """A training loss by step, from the event files of TensorBoard; only of runs that have them."""
    out = []
    for cell in cells:
        logs = [run.directory / reporting.LOGS for run in cell.runs]
        runs = [dict(event_files.read(each).get(tag, [])) for each in logs if each.is_dir()]
        out.append(_mean(cell.label, [run for run in runs if run]))
    return [each for each in out if each is not None]


def differences(part: Part) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The macros whose values differ between settings.

    Returns:
      Labels of the settings, and for each macro its value in each of them.
    """
    configurations = [cell.runs[0].configuration for cell in part.cells]
    names = sorted({name for each in configurations for name in each}, key=lambda name: ("." in name, name))
    rows: list[tuple[str, list[str]]] = []
    for name in names:
        values = [plain(each[name]) if name in each else "–" for each in configurations]
        repeated = "." in name and any(values == known for _, known in rows)  # a binding that a macro sets
        if len(set(values)) > 1 and not repeated:
            rows.append((name, values))
    return [cell.label for cell in part.cells], rows


def provenance(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Where the runs come from: for each fact its values, with the number of runs that have each."""

    def of(section: str, name: str) -> list[Any]:
        return [run.record[section].get(name) for run in runs]

    packages = [run.record["code"]["versions"] for run in runs]
    facts: list[tuple[str, list[Any]]] = [
        ("distill", of("code", "version")),
        ("revision", [_revision(run) for run in runs]),
        *((name, [each.get(name) for each in packages]) for name in sorted({n for each in packages for n in each})),
        ("Python", of("environment", "python")),
        (
            "device",
            [f"{run.record['environment']['devices']} × {run.record['environment']['device_kind']}" for run in runs],
        ),
        ("processor", of("environment", "processor")),
        ("host", of("environment", "host")),
        ("XLA flags", [flags or None for flags in of("environment", "xla_flags")]),
        *((f"{split} rows", [_rows(run, split) for run in runs]) for split in ("train", "validation", "test")),
    ]
    out = []
    for name, values in facts:
        counts: dict[str, int] = {}
        for value in values:
            if value is not None:
                counts[str(value)] = counts.get(str(value), 0) + 1
        if counts:
            out.append((name, list(counts.items())))
    return out


def _revision(run: Run) -> str | None:
    code = run.record["code"]
    revision = code.get("revision")
    return None if revision is None else f"{str(revision)[:12]}{', modified' if code.get('modified') else ''}"


def _rows(run: Run, split: str) -> str | None:
    entry = run.record["data"].get(split)
    if entry is None:
        return None
    return (
        f"{entry.get('rows', '?')} ({' '.join(filter(None, (run.data_name(split), str(entry['fingerprint'])[:12])))})"
    )
