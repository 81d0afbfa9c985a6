"""Means and intervals over seeds against a table of Student's t, the CSV, and the axis of the plot."""

import csv
import dataclasses
import json
import math

import pytest
from etils import epath

from distill.experiments.report import figure, scales
from distill.experiments.report import terminal as report
from distill.experiments.report.terminal import Cell
from distill.experiments.sweep import Level, Sweep, outcomes, reading
from distill.training import reporting, timing
from tests.distill.experiments.report import synthetic


def levels(*names):
    return tuple(Level(name) for name in names)


@pytest.fixture
def sweep(tmp_path):
    axes = {"method": levels("standard", "step-by-step"), "RANDOM_SEED": levels("0", "1", "2")}
    return Sweep(tmp_path, axes)


def finish(sweep, scores):
    """Writes results for the first runs of the grid, in order."""
    for run, score in zip(sweep.runs(), scores):
        run.directory.mkdir()
        content = {"test": {"accuracy": score}, "step": 100, "seconds": 2.004, "best": 50.0, "best_step": 80}
        (run.directory / "result.json").write_text(json.dumps(content))


def test_mean_deviation_and_interval():
    cell = Cell({}, (1.0, 2.0, 3.0), (1, 1, 1), (1.0, 1.0, 1.0))
    assert (cell.mean, cell.deviation) == (2.0, 1.0)
    assert cell.interval.high - 2.0 == pytest.approx(
        4.302653 / math.sqrt(3), rel=1e-6
    )  # t of 0.975 with 2 degrees of freedom
    single = Cell({}, (5.0,), (1,), (1.0,))
    assert single.mean == 5.0 and math.isnan(single.deviation) and not single.interval.known
    assert report._interval_text(Cell({}, (0.0, 0.0), (1, 1), (1.0, 1.0))) == "all seeds equal"
    whole = Cell({}, (0.0, 1.0, 0.5), (1, 1, 1), (1.0, 1.0, 1.0))  # as in the report, which draws no interval either
    assert report._interval_text(whole) == "too few seeds" and not whole.interval.known


def test_finished_runs_are_grouped_over_seeds(sweep):
    assert report.cells(sweep) == []
    finish(sweep, [10.0, 20.0, 30.0, 40.0])
    first, second = report.cells(sweep)
    assert (first.values, first.scores) == ({"method": "standard"}, (10.0, 20.0, 30.0))
    assert (second.values, second.scores) == ({"method": "step-by-step"}, (40.0,))


def test_runs_on_other_rows_are_not_pooled(sweep):
    """The table has the settings of the report."""
    runs = sweep.runs()
    for run, train, test in zip(runs, ("old", "old", "new", "old"), ("t", "t", "t", "u")):
        prints = {"train": train, "test": test}
        synthetic.write_run(run.directory, [True] * 5, configuration={}, fingerprints=prints)
    found = report.cells(sweep)
    assert [(list(cell.values.values()), len(cell.scores)) for cell in found] == [
        (["standard", "t", "old"], 2), (["standard", "t", "new"], 1), (["step-by-step", "u"], 1),
    ]  # fmt: skip
    assert [line.partition(":")[0] for line in report.notes(sweep)] == [
        "method step-by-step, test rows u was scored on other rows than method standard, test rows t, training rows old"
    ]
    headers = [str(column.header) for column in report.table(sweep, found).columns]
    assert headers[:3] == ["method", "test rows", "training rows"]
    report.plot(sweep, found, sweep.directory / "rows.png", failed=2)
    report.write_csv(sweep, sweep.directory / "rows.csv", {runs[5].name: "no memory"})
    with (sweep.directory / "rows.csv").open(newline="") as file:
        lines = [line[:4] for line in csv.reader(file)]
    assert lines[0] == ["method", "test rows", "training rows", "RANDOM_SEED"]
    assert lines[3:] == [
        ["standard", "t", "new", "2"], ["step-by-step", "u", "", "0"], ["step-by-step", "", "", "2"],
    ]  # fmt: skip


def test_runs_of_an_edited_gin_file_are_not_pooled(sweep):
    for run, size in zip(sweep.runs(), (4, 4, 8)):
        synthetic.write_run(run.directory, [True] * 5, configuration={"BATCH_SIZE": size, "RANDOM_SEED": 0})
    found = report.cells(sweep)
    assert [(cell.values, len(cell.scores)) for cell in found] == [
        ({"method": "standard", "BATCH_SIZE": "4"}, 2), ({"method": "standard", "BATCH_SIZE": "8"}, 1),
    ]  # fmt: skip


def test_a_metric_that_no_result_has_is_named(sweep):
    finish(sweep, [10.0])
    with pytest.raises(ValueError, match=r"no test metric 'f1'; it has accuracy"):
        report.cells(Sweep(sweep.directory, sweep.axes, metric="f1"))


def note_attempt(run, step):
    run.directory.mkdir(parents=True)
    timing.Attempts(epath.Path(run.directory), 0, started=0.0).made(step)


def test_the_csv_has_finished_failed_and_pruned_runs(sweep):
    finish(sweep, [10.0, 20.0])
    note_attempt(sweep.runs()[5], 37)
    note_attempt(sweep.runs()[4], 61)
    outcomes.note_pruned(sweep.runs()[4], 60, 0.25)
    report.write_csv(sweep, sweep.directory / "out.csv", {sweep.runs()[5].name: "no memory, none"})
    with (sweep.directory / "out.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    weights, blank = ["label_rate", "rationale_rate", "effective_lambda"], [""] * 3
    assert rows == [
        ["method", "RANDOM_SEED", "steps", "seconds", *weights, "best_step", "best", "test/accuracy", "state", "error"],
        ["standard", "0", "100", "2.0", *blank, "80", "50.0", "10.0", "done", ""],
        ["standard", "1", "100", "2.0", *blank, "80", "50.0", "20.0", "done", ""],
        ["step-by-step", "1", "60", "", *blank, "", "", "", "pruned", ""],
        ["step-by-step", "2", "37", "", *blank, "", "", "", "failed", "no memory, none"],
    ]


def test_the_validation_score_has_the_name_of_the_report(sweep):
    finish(sweep, [0.5, 0.25])
    for run, metric in zip(sweep.runs(), ("accuracy", "accuracy")):
        content = reporting.read_result(epath.Path(run.directory)) | {"selection": {"metric": metric}}
        (run.directory / "result.json").write_text(json.dumps(content))
    report.write_csv(sweep, sweep.directory / "out.csv")
    with (sweep.directory / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["validation/accuracy"], row["test/accuracy"]) for row in rows] == [("50.0", "0.5"), ("50.0", "0.25")]
    assert report._validation_column([(None, {"selection": {"metric": name}}) for name in ("loss", "f1")]) == "best"


def test_no_level_and_no_error_is_a_formula(tmp_path):
    sweep = Sweep(tmp_path, {"=A": levels("=1+1", "-0.5")})
    finish(sweep, [10.0])
    report.write_csv(sweep, tmp_path / "out.csv", {sweep.runs()[1].name: "@cmd"})
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [(row[0], row[-1]) for row in rows] == [("'=A", "error"), ("'=1+1", ""), ("-0.5", "'@cmd")]


def test_the_table_counts_failed_seeds(sweep):
    finish(sweep, [10.0, 20.0, 30.0])
    failures = {sweep.runs()[4].name: "a", sweep.runs()[5].name: "b"}
    table = report.table(sweep, report.cells(sweep), failures)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["accuracy"] == ["20.000", "–"]
    assert columns["95 % interval"] == ["−4.841 – 44.841", "–"]
    assert columns["std"] == ["10.000", "–"]
    assert columns["seeds"] == ["3", "0"]
    assert columns["failed"] == ["0", "2"] and columns["steps"] == ["100", "–"]
    note_attempt(sweep.runs()[4], 37)  # the other failed before its first step
    columns = {str(column.header): list(column.cells) for column in report.table(sweep, [], failures).columns}
    assert columns["steps"] == ["37"]


def test_the_interval_of_an_accuracy_holds_possible_values_only(sweep):
    finish(sweep, [0.0, 0.385, 0.2, 0.9, 0.1])
    table = report.table(sweep, report.cells(sweep))
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["95 % interval"] == ["0.0 – 67.3", "too few seeds"]
    assert (columns["accuracy, %"], columns["std"]) == (["19.5", "50.0"], ["19.3", "56.6"])


@pytest.mark.parametrize(
    "axes, x, expected",
    [
        ({"method": ("a", "b"), "SUBSAMPLE": ("0.5", "1.0")}, None, "SUBSAMPLE"),
        ({"RANDOM_SEED": ("0", "1"), "method": ("a",)}, None, None),
        ({"A": ("1", "b"), "B": ("1e-3",)}, None, "B"),
        ({"A": ("1",), "B": ("2",)}, "B", "B"),
    ],
)
def test_the_horizontal_axis(tmp_path, axes, x, expected):
    sweep = Sweep(tmp_path, {name: levels(*names) for name, names in axes.items()}, x=x)
    assert report.numeric_axis(sweep) == expected


def test_axes_of_rates_and_of_lambda_are_named_as_in_the_report(tmp_path):
    text = "axes: {r: {ratio: [1, 4]}, LAMBDA: [0.5, 2], w: {values: [1, 2], macro: LAMBDA}, BATCH_SIZE: [4, 8]}"
    (tmp_path / "s.yaml").write_text(text)
    found = reading.read(tmp_path / "s.yaml", tmp_path / "out")
    named = {axis: report._quantity(found, axis) for axis in found.axes}
    assert named == {
        "r": "labels per rationale in the mixture", "LAMBDA": "λ", "w": "λ", "BATCH_SIZE": "BATCH_SIZE",
    }  # fmt: skip


def test_the_plot_holds_the_intervals_or_marks_their_ends(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figure, "intervals", lambda axes, chart, series, colour: drawn.append((chart, series)))
    sweep = Sweep(tmp_path, {"SUBSAMPLE": levels("0.25", "0.5"), "RANDOM_SEED": levels("0", "1", "2")})
    finish(sweep, [0.5, 0.52, 0.51, 0.7, 0.71, 0.73])
    report.plot(sweep, report.cells(sweep), tmp_path / "out.png")
    ((chart, series),) = drawn
    assert not scales.is_cut(chart) and all(p.low < min(p.runs) and max(p.runs) < p.high for p in series.points)


def test_everything_is_written_for_bars_and_for_lines(tmp_path, capsys):
    for folder, axes in (("bars", {"method": levels("a", "b")}), ("lines", {"SUBSAMPLE": levels("0.25", "0.5", "1")})):
        sweep = Sweep(tmp_path / folder, axes)
        sweep.directory.mkdir()
        finish(sweep, [10.0, 20.0, 40.0])
        assert [cell.mean for cell in report.write_all(sweep)] == [10.0, 20.0, 40.0][: len(sweep.runs())]
        assert (sweep.directory / "results.png").read_bytes()[:4] == b"\x89PNG"
    assert "results.csv" in capsys.readouterr().out.replace("\n", "")


def test_a_sweep_without_finished_runs_writes_no_plot(sweep, capsys):
    assert report.write_all(sweep) == []
    assert "no run of this sweep is finished" in capsys.readouterr().out
    assert not list(sweep.directory.iterdir())


def test_the_csv_has_rates_effective_lambda_and_test_rows_seen_as_numbers(sweep):
    """Empty for a form without a mixture, for a λ or rows that are not known, and without a record."""
    of_runs = [
        ({"FORM": "mixed", "LABEL_RATE": 2, "RATIONALE_RATE": 0.5}, 0.1 + 0.2),
        ({"FORM": "paired", "LABEL_RATE": 1, "RATIONALE_RATE": 1}, None),
    ]
    for run, (own, lam) in zip(sweep.runs(), of_runs):
        synthetic.write_run(run.directory, [True] * 5, configuration=own, training={"lambda": lam})
    assert report.notes(sweep) == []
    path = sweep.runs()[0].directory / "record.json"
    content = json.loads(path.read_text())
    content["data"]["test"]["seen"] = 2
    path.write_text(json.dumps(content))
    (note,) = report.notes(sweep)
    assert note.startswith("2 of 5 test rows have the input of a training row")
    finish(dataclasses.replace(sweep, planned=tuple(sweep.runs()[2:3])), [0.5])
    report.write_csv(sweep, sweep.directory / "rates.csv", {sweep.runs()[3].name: "no memory"})
    with (sweep.directory / "rates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(row["label_rate"], row["rationale_rate"], row["effective_lambda"]) for row in rows]
    assert found == [("2.0", "0.5", str(0.1 + 0.2)), *[("", "", "")] * 3]
    assert [row["test_rows_seen"] for row in rows] == ["2", "", "", ""]
    assert [row["state"] for row in rows] == ["done"] * 3 + ["failed"] and rows[3]["error"] == "no memory"


def test_an_axis_that_some_settings_do_not_have(tmp_path, capsys):
    """Ratios have positions on the axis; a setting without the axis has an empty level and is a line over the plot."""
    ratios = tuple(Level(name, number=number) for name, number in (("4:1", 4.0), ("1:2", 0.5)))
    both = {"NORMALIZER": levels("all_tokens", "task_tokens"), "rates": ratios}
    sweep = Sweep(tmp_path, both, x="rates")
    runs = [run for run in sweep.runs() if run.values["NORMALIZER"] == "all_tokens"]
    runs.append(next(run for run in sweep.runs() if run.values["NORMALIZER"] == "task_tokens"))
    alone = dataclasses.replace(runs[-1], values={"NORMALIZER": "task_tokens"}, numbers={})
    sweep = dataclasses.replace(sweep, planned=(*runs[:-1], alone))
    finish(sweep, [10.0, 20.0, 15.0])
    assert len(report.write_all(sweep)) == 3
    rows = list(csv.reader((tmp_path / "results.csv").open(encoding="utf-8")))
    assert [row[:2] for row in rows[1:]] == [["all_tokens", "4:1"], ["all_tokens", "1:2"], ["task_tokens", ""]]
    assert "15.000" in capsys.readouterr().out
    assert (tmp_path / "results.png").read_bytes()[:4] == b"\x89PNG"


def added_lambda(tmp_path, x):
    """A sweep over rates with values of LAMBDA that ``more`` added at one of them, drawn along ``x``."""
    ratios = (Level("1:1", number=1.0), Level("4:1", number=4.0))
    sweep = Sweep(tmp_path, {"rates": ratios, "LAMBDA": levels("0.5", "2")}, x=x)
    points = [{"rates": "1:1"}, {"rates": "4:1"}, {"rates": "4:1", "LAMBDA": "0.5"}, {"rates": "4:1", "LAMBDA": "2"}]
    numbers = {"1:1": 1.0, "4:1": 4.0, "0.5": 0.5, "2": 2.0}
    planned = []
    for number, (run, point) in enumerate(zip(sweep.runs(), points)):
        own = {"FORM": "mixed", "LABEL_RATE": int(point["rates"][0]), "RATIONALE_RATE": 1, "LAMBDA": None}
        lam = float(point.get("LAMBDA", 1))
        own |= {"LAMBDA": lam} if "LAMBDA" in point else {}
        synthetic.write_run(tmp_path / f"run{number}", [True] * 5, configuration=own, training={"lambda": lam})
        of_point = {axis: numbers[level] for axis, level in point.items()}
        planned.append(
            dataclasses.replace(
                run, name=f"run{number}", directory=tmp_path / f"run{number}", values=point, numbers=of_point
            )
        )
    return dataclasses.replace(sweep, planned=tuple(planned))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ("rates", {"LAMBDA 1": [1.0, 4.0], "LAMBDA 0.5": [4.0], "LAMBDA 2": [4.0]}),
        ("LAMBDA", {"rates 1:1": [1.0], "rates 4:1": [0.5, 1.0, 2.0]}),
    ],
)
def test_lines_of_the_plot_name_their_axis_and_what_a_point_leaves_unset(tmp_path, monkeypatch, x, expected):
    drawn = {}
    monkeypatch.setattr(
        figure,
        "intervals",
        lambda axes, chart, series, colour: drawn.update({series.name: [p.x for p in series.points]}),
    )
    sweep = added_lambda(tmp_path, x)
    report.plot(sweep, report.cells(sweep), tmp_path / "out.png")
    assert drawn == expected


def test_the_plot_shows_shares_in_per_cent_and_marks_what_has_no_interval(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figure, "intervals", lambda axes, chart, series, colour: drawn.append((chart, series)))
    sweep = Sweep(tmp_path, {"SUBSAMPLE": levels("0.25", "0.5"), "RANDOM_SEED": levels("0", "1")})
    finish(sweep, [0.03, 0.18, 0.51, 0.52])
    report.plot(sweep, report.cells(sweep), tmp_path / "out.png")
    ((chart, series),) = drawn
    assert [(p.bare, p.runs) for p in series.points] == [(True, (3.0, 18.0)), (False, (51.0, 52.0))]
    assert figure.notes(chart)[:1] == [figure.BARE]
