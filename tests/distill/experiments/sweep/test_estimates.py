"""Forecasts of time and cost, by hand."""

import json

import pytest

from distill.experiments.sweep import estimates
from distill.experiments.sweep.budgets import Cost
from distill.experiments.sweep.estimates import Bound, forecast
from distill.experiments.sweep.runs import Run
from distill.training import record
from tests.distill.experiments.report import synthetic


def run(tmp_path, name, method, seed, seconds=None, step=10):
    made = Run(name, {"method": method, "RANDOM_SEED": seed}, (), (), tmp_path / name)
    if seconds is not None:
        made.directory.mkdir()
        (made.directory / "result.json").write_text(json.dumps({"seconds": seconds, "step": step}))
    return made


def write_record(run, kind="cpu", **training):
    content = synthetic.record({}, {}, training, (0.5, 0.5))
    content["environment"]["device_kind"] = kind
    (run.directory / record.FILE).write_text(json.dumps(content))


def test_from_finished_runs(tmp_path):
    finished = [run(tmp_path, "a0", "a", "0", seconds=20.0)]
    waiting = [run(tmp_path, "a1", "a", "1"), run(tmp_path, "b0", "b", "0")]
    costs = {"a0": Cost(10, 100.0), "a1": Cost(10, 100.0), "b0": Cost(30, 300.0)}
    found = forecast(waiting, costs, finished)
    # a1 as a0: 10 · 2 s; b0: 30 steps of three times the operations: 30 · 6 s.
    assert found.seconds == pytest.approx(20 + 180)
    assert found.flops == 10 * 100 + 30 * 300
    for kind, unit in (("cpu", "core-hours"), ("TPU v5 lite", "chip-hours")):
        write_record(finished[0], kind, seconds=20.0, chip_seconds=80.0)
        assert f"0.222 {unit} (from 1 finished run)" in forecast(waiting, costs, finished).lines()[1]
    found = forecast(waiting, costs, finished)
    assert found.chip_seconds == pytest.approx(800)
    lines = "\n".join(found.lines(workers=2, price_per_chip_hour=9.0))
    assert "3.33 min one after another, 100 s with 2 workers, 0.222 chip-hours (from 1 finished run)" in lines
    assert "cost 2.00 at 9 per chip-hour" in lines


def test_a_run_that_continues_has_the_steps_after_its_checkpoint_to_do(tmp_path):
    done, begun = run(tmp_path, "a0", "a", "0", seconds=20.0), run(tmp_path, "a1", "a", "1")
    for name in ("4", "7", "9.being-written"):
        (begun.directory / "checkpoints" / name).mkdir(parents=True)
    costs = {"a0": Cost(10, 100.0), "a1": Cost(10, 100.0)}
    found = forecast([begun], costs, [done])
    assert found.flops == 300 and found.seconds == pytest.approx(6)
    again = forecast([begun], costs, [done], anew=[begun])
    assert again.flops == 1000 and again.seconds == pytest.approx(20), "it starts from its beginning"
    assert forecast([begun], costs, bounds={"a1": Bound(0.5, 16, 1, True)}).seconds == pytest.approx(1.5)


def test_nothing_to_do_takes_no_time(tmp_path):
    done = run(tmp_path, "a0", "a", "0", seconds=20.0)
    assert forecast([], {"a0": Cost(10, 100.0)}, [done]).lines(price_per_chip_hour=1.0) == ["0 runs to do"]


def test_a_run_of_one_update_counts_little(tmp_path):
    """Most of its time is compilation, which is no measure of an update."""
    finished = [
        run(tmp_path, "before", "before", "0", seconds=30.0, step=1),
        run(tmp_path, "a0", "a", "0", seconds=70.0, step=99),
    ]
    costs = {"before": Cost(1, 100.0), "a0": Cost(99, 100.0), "b0": Cost(100, 100.0)}
    assert forecast([run(tmp_path, "b0", "b", "0")], costs, finished).seconds == pytest.approx(100)


def test_from_finished_runs_that_are_not_in_the_sweep(tmp_path, monkeypatch):
    """A level was replaced: the runs of the old one still tell how fast the machine is."""
    read = []
    monkeypatch.setattr(
        estimates.record, "read", lambda path, read_one=record.read: read.append(path) or read_one(path)
    )
    other = run(tmp_path, "c0", "c", "0", seconds=50.0)
    write_record(other, seconds=50.0, chip_seconds=100.0, flops=500.0)
    found = forecast([run(tmp_path, "b0", "b", "0")], {"b0": Cost(30, 300.0)}, others=[other])
    assert found.seconds == pytest.approx(30 * 300 * 0.1) and found.chip_seconds == pytest.approx(1800)
    assert found.lines()[-1].endswith("0.5 core-hours (from 1 finished run)")
    assert read == [other.directory], "the record is read once"
    write_record(other, seconds="50", flops=500.0)
    assert forecast([run(tmp_path, "b0", "b", "0")], {"b0": Cost(30, 300.0)}, others=[other]).seconds is None
    (other.directory / "record.json").write_text("[" * 100_000)
    assert forecast([run(tmp_path, "b0", "b", "0")], {"b0": Cost(30, 300.0)}, others=[other]).seconds is None
    done, costs = run(tmp_path, "b1", "b", "1", seconds=10.0), {"b0": Cost(30, 300.0), "b1": Cost(10, 300.0)}
    (done.directory / "record.json").write_text("[" * 100_000)
    found = forecast([run(tmp_path, "b0", "b", "0")], costs, [done])
    assert found.seconds == found.chip_seconds == pytest.approx(30)


def test_from_bounds_for_tpus(tmp_path):
    waiting = [run(tmp_path, "a1", "a", "1")]
    found = forecast(waiting, {"a1": Cost(1000, 5.0)}, [], {"a1": Bound(0.5, 16, 1, True)})
    assert (found.seconds, found.chip_seconds) == (500, 8000)


def test_without_either_it_is_unknown_and_the_text_names_what_makes_it_known(tmp_path):
    waiting, costs = [run(tmp_path, "a1", "a", "1")], {"a1": Cost(1000, 5.0)}
    found = forecast(waiting, costs)
    assert found.seconds is None and found.chip_seconds is None
    said = found.lines()[-1]
    assert said.startswith("the time is unknown: no run is finished.")
    assert "--index=0 trains the first run; --dry_run then estimates" in said and "--topology=v5e:4x4" in said
    assert "extra `precompile`" in said
    assert found.lines(price_per_chip_hour=2.0)[-1].startswith("time and cost are unknown: ")
    said = forecast(waiting, costs, is_search=True).lines()[-1]
    assert "start the search; after its first run" in said and "--index" not in said
