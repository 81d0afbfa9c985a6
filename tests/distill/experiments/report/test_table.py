"""The CSV twin: a line for each run, failed ones included."""

import csv
import dataclasses
import io

import pytest

from distill.experiments.report import collect, table


def test_every_run_has_a_line(rates_analysis):
    collection, found = rates_analysis
    rows = list(csv.DictReader(io.StringIO(table.csv_text([found.part], collection.unfinished))))
    assert len(rows) == 62
    first = rows[0]
    assert (first["NORMALIZER"], first["rates"], first["RANDOM_SEED"], first["state"], first["best_step"]) == (
        "task_tokens", "1:4", "0", "done", "300",
    )  # fmt: skip
    assert (first["label_rate"], first["rationale_rate"], rows[60]["label_rate"]) == ("1", "4", "")
    assert first["effective_lambda"] == "1" and not {"lambda", "seed"} & set(first), "the names of results.csv"
    run = found.part.cells[0].runs[0]
    assert float(first["test/accuracy"]) == pytest.approx(run.score("accuracy")) and first["parameters"] == "60500000"
    assert [(row["state"], row["error"]) for row in rows[60:]] == [
        ("failed", "loss is not finite at step 120"),
        ("waiting", ""),
    ]
    assert rows[60]["RANDOM_SEED"] == "0"


def test_a_failed_run_has_the_level_that_no_finished_run_has(rates_analysis):
    _, found = rates_analysis
    axes = {"NORMALIZER": "task_tokens", "LEARNING_RATE": "3", "same": "1"}
    cells = tuple(dataclasses.replace(cell, values={**cell.values, "same": "1"}) for cell in found.part.cells)
    part = dataclasses.replace(found.part, cells=cells)
    failed = collect.Unfinished("LEARNING_RATE-3", axes, "failed", "the loss is nan")
    *_, row = csv.DictReader(io.StringIO(table.csv_text([part], (failed,))))
    assert row["LEARNING_RATE"] == "3" and row["NORMALIZER"] == "task_tokens" and "same" not in row


def test_no_text_of_a_run_is_a_formula(rates_analysis):
    _, found = rates_analysis
    cell = found.part.cells[0]
    data = {"test": {**cell.runs[0].record["data"]["test"], "fingerprint": "=HYPERLINK(1)"}}
    run = dataclasses.replace(
        cell.runs[0],
        name="@name",
        axes={},
        record={**cell.runs[0].record, "configuration": {"RANDOM_SEED": "=cmd"}, "data": data},
    )
    part = dataclasses.replace(found.part, cells=(dataclasses.replace(cell, runs=(run,)),))
    (row,) = csv.DictReader(io.StringIO(table.csv_text([part], ())))
    assert (row["run"], row["RANDOM_SEED"], row["test_data"]) == ("'@name", "'=cmd", "'=HYPERLINK(1)")
