"""The runs of a report as CSV: one line each, with setting, seed, scores and cost."""

import csv
import io
from collections.abc import Sequence

from distill.experiments.report import quantities
from distill.experiments.report.collect import Unfinished
from distill.experiments.report.settings import Part, any_seen
from distill.experiments.report.text import spreadsheet_cell
from distill.experiments.sweep import SEED
from distill.experiments.sweep.levels import RATES

# Column → entry of the record's section ``training``.
_TRAINING = {
    "steps": "steps",
    "examples": "examples",
    "tokens": "tokens",
    "effective_lambda": "lambda",
    "flops": "flops",
    "seconds": "seconds",
    "chip_seconds": "chip_seconds",
    "peak_memory_bytes": "peak_memory_bytes",
    "parameters": "parameters",
}


def csv_text(parts: Sequence[Part], unfinished: Sequence[Unfinished]) -> str:
    """Returns the table.

    Columns: run, test rows' fingerprint, axes, seed, rates of a mixture, training, validation and test metrics, state.
    Scores are as the metrics give them: accuracies are shares, not per cent.
    The test rows that have the input of a training row have a column if a run has such rows.
    """
    runs = [(part, cell, run) for part in parts for cell in part.cells for run in cell.runs]
    axes = _axes(parts, unfinished)
    metrics = {
        split: sorted({name for *_, run in runs for name in run.record[split]}) for split in ("validation", "test")
    }
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    scores = [f"{split}/{name}" for split, names in metrics.items() for name in names]
    seen = ["test_rows_seen"] if any_seen([run for *_, run in runs]) else []
    writer.writerow(
        [
            "run",
            "test_data",
            *map(spreadsheet_cell, axes),
            SEED,
            "best_step",
            "train_rows",
            *map(str.lower, RATES),
            *_TRAINING,
            *map(spreadsheet_cell, scores),
            *seen,
            "state",
            "error",
        ]
    )
    for _, cell, run in runs:
        levels = [spreadsheet_cell(cell.values.get(axis, "")) for axis in axes]
        values = [run.record[split].get(name, "") for split, names in metrics.items() for name in names]
        training = [_number(run.record["training"].get(name)) for name in _TRAINING.values()]
        step, rows = run.record["selection"]["step"], quantities.train_rows(cell)
        fingerprint = spreadsheet_cell(str(run.fingerprint("test"))[:16])
        writer.writerow(
            [
                spreadsheet_cell(run.name),
                fingerprint,
                *levels,
                spreadsheet_cell(run.seed),
                step,
                f"{rows:g}",
                *map(_number, run.rates or (None, None)),
                *training,
                *map(_number, values),
                *[_number(run.seen) for _ in seen],
                "done",
                "",
            ]
        )
    blank = [""] * (2 + len(RATES) + len(_TRAINING) + len(scores) + len(seen))
    for each in unfinished:
        levels = [spreadsheet_cell(each.axes.get(axis, "")) for axis in axes]
        seed = spreadsheet_cell(each.axes.get(SEED, ""))
        writer.writerow(
            [spreadsheet_cell(each.name), "", *levels, seed, *blank, each.state, spreadsheet_cell(each.error)]
        )
    return out.getvalue()


def _axes(parts: Sequence[Part], unfinished: Sequence[Unfinished]) -> list[str]:
    """The axes in which settings, or unfinished runs and settings, differ."""
    found = dict.fromkeys(axis for part in parts for axis in part.axes)
    for axis in dict.fromkeys(axis for each in unfinished for axis in each.axes if axis != SEED):
        levels = {each.axes.get(axis) for each in unfinished}
        levels |= {cell.values.get(axis) for part in parts for cell in part.cells}
        if len(levels) > 1:
            found.setdefault(axis)
    return list(found)


def _number(value: object) -> str:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)
