"""Searches by Optuna: seeded, resumed, conditional, pruned on validation, and shared by workers."""

import importlib.util
import json
import math
import sys

import pytest

from distill.experiments.sweep import SweepError, leases, outcomes, plan, planning, reading, scheduler, search, workers

TEXT = """
axes:
  form: {paired: {}, mixed: {}}
  LAMBDA: {low: 0.01, high: 100, log: true, when: {form: paired}}
  rates: {ratio: {low: 0.1, high: 10, log: true}, when: {form: mixed}}
  LAYERS: {low: 1, high: 4, int: true}
  RANDOM_SEED: [7, 8]
joint_seeds: %s
design: {kind: optuna, trials: %d, sampler: %s, seed: 5, startup: 3}
"""


def work(directory, trials=6, sampler="tpe", joint="true"):
    directory.mkdir(exist_ok=True)
    (directory / "s.yaml").write_text(TEXT % (joint, trials, sampler))
    sweep = reading.read(directory / "s.yaml", directory / "out")
    planning.prepare(sweep)
    return search.SearchWork(sweep)


def finish(runs):
    """Writes results whose validation score depends on the point only: best at λ = 1."""
    for run in runs:
        away = abs(math.log(run.numbers.get("LAMBDA", run.numbers.get("rates", 1.0))))
        run.directory.mkdir(parents=True, exist_ok=True)
        (run.directory / "result.json").write_text(json.dumps({"best": 1 / (1 + away), "test": {"accuracy": 0.0}}))


def run_all(one):
    seen = []
    while (group := one.next()) is not None:
        seen.append([(run.name, dict(run.values)) for run in group])
        finish(group)
        one.finished(group)
    return seen


def test_a_search_is_repeated_exactly_also_after_a_restart(tmp_path):
    whole = run_all(work(tmp_path / "a"))
    first = work(tmp_path / "b")
    parts = []
    for _ in range(3):
        group = first.next()
        parts.append([(run.name, dict(run.values)) for run in group])
        finish(group)
        first.finished(group)
    group = first.next()  # stopped before it has a result: a new process continues with this trial
    second = work(tmp_path / "b")
    assert [run.name for run in second.next()] == [run.name for run in group]
    assert parts + run_all(second) == whole
    assert len(whole) == 6 and second.is_over()
    assert [name for name, _ in whole[0]] == ["trial-0000__RANDOM_SEED-7", "trial-0000__RANDOM_SEED-8"]


def test_axes_exist_where_their_condition_holds(tmp_path):
    one = work(tmp_path, trials=8, sampler="random")
    seen = run_all(one)
    assert {values["form"] for group in seen for _, values in group} == {"paired", "mixed"}
    for group in seen:
        for _, values in group:
            assert ("LAMBDA" in values) == (values["form"] == "paired")
            assert ("rates" in values) == (values["form"] == "mixed")
    states = {entry.state for entry in plan.read_directory(tmp_path / "out")}
    assert states == {"done"}
    sweep = reading.read(tmp_path / "s.yaml", tmp_path / "out")
    line = search.summary(tmp_path / "out", sweep.search)
    runs = plan.read_plan(tmp_path / "out").runs
    best = max(1 / (1 + abs(math.log(run.numbers.get("LAMBDA", run.numbers.get("rates"))))) for run in runs)
    assert line.startswith(f"8 of 8 trials (8 done); best on validation: {best:.4f}, trial-000")
    shown = dict(text.split("=") for text in line.partition(" with ")[2].split(", "))
    assert shown in [{axis: level for axis, level in run.values.items() if axis != "RANDOM_SEED"} for run in runs], (
        "the values are spelt as in table and CSV"
    )


def test_two_workers_take_different_trials_and_no_more_than_there_are(tmp_path):
    one = work(tmp_path, trials=2)
    two = search.SearchWork(reading.read(tmp_path / "s.yaml", tmp_path / "out"))
    first = one.next()
    lease = leases.claim(tmp_path / "out", outcomes.lease_name(first))
    second = two.next()
    assert first[0].values != second[0].values and first[0].name != second[0].name
    other = leases.claim(tmp_path / "out", outcomes.lease_name(second))
    assert one.next() is None and not one.is_over()
    lease.release()
    other.release()
    assert one.next()[0].name == first[0].name


def test_a_trial_far_below_the_median_is_pruned_and_never_on_test(tmp_path):
    one = work(tmp_path, trials=5, sampler="random")
    for _ in range(4):
        group = one.next()
        group[0].directory.mkdir(parents=True, exist_ok=True)
        validation(group[0], [0.5, 0.6])
        assert not one.is_hopeless(group)
        finish(group)
        one.finished(group)
    group = one.next()
    sweep = reading.read(tmp_path / "s.yaml", tmp_path / "out")
    assert search.opening(plan.read_plan(tmp_path / "out"), sweep.search) == "5 trials, 4 done already, 1 to do"
    validation(group[0], [0.1], test=0.9)
    assert not one.is_hopeless(group), "little is learned at the first validation"
    validation(group[0], [0.1, 0.2], test=0.9)
    assert one.is_hopeless(group)
    assert [outcomes.pruned(run) for run in group] == [{"step": 20, "value": 0.2}] * 2
    one.finished(group)
    assert one.is_over() and one.next() is None
    line = search.summary(tmp_path / "out", sweep.search)
    assert "1 pruned" in line and "4 done" in line
    opening = search.opening(plan.read_plan(tmp_path / "out"), sweep.search)
    assert opening == "5 trials, 4 done already, 1 pruned before, 0 to do"


def test_trials_that_have_learned_nothing_are_not_pruned(tmp_path):
    one = work(tmp_path, trials=4, sampler="random")
    for _ in range(4):
        group = one.next()
        validation(group[0], [0.0, 0.0])
        assert not one.is_hopeless(group)
        finish(group)
        one.finished(group)


def test_of_losses_the_lowest_is_the_best(tmp_path):
    work(tmp_path, trials=5, sampler="random")
    (tmp_path / "out" / search.JOURNAL).unlink()
    sweep = reading.read(tmp_path / "s.yaml", tmp_path / "out")
    one = search.SearchWork(sweep, metric="loss")
    for loss in (0.6, 0.5, 0.4, 0.3, 9.0):
        group = one.next()
        validation(group[0], [loss, loss], metric="loss")
        assert one.is_hopeless(group) == (loss == 9.0)
        for run in group if loss < 9.0 else ():
            (run.directory / "result.json").parent.mkdir(parents=True, exist_ok=True)
            (run.directory / "result.json").write_text(json.dumps({"best": loss, "test": {}}))
        one.finished(group)
    line = search.summary(tmp_path / "out", sweep.search, "loss")
    assert "4 done" in line and "best on validation: 0.3000, trial-0003 with " in line
    with pytest.raises(
        SweepError, match=r"'accuracy': expected a study .* to maximize it; got one to minimize its metric"
    ):
        search.SearchWork(sweep)


def validation(run, scores, test=None, metric="accuracy"):
    run.directory.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"split": "validation", "step": 10 * (n + 1), metric: s}) for n, s in enumerate(scores)]
    lines += [json.dumps({"split": "test", "step": 10, "accuracy": test})] if test is not None else []
    (run.directory / "evaluations.jsonl").write_text("\n".join(lines) + '\n{"split": "val')  # a line being written


def test_a_failed_trial_is_told_to_the_study_and_the_next_follows(tmp_path):
    one = work(tmp_path, trials=2)
    group = one.next()
    for run in group:
        outcomes.note_failure(run, "the loss is nan")
    one.finished(group)
    assert one.next()[0].name.startswith("trial-0001")
    sweep = reading.read(tmp_path / "s.yaml", tmp_path / "out")
    assert "1 failed" in search.summary(tmp_path / "out", sweep.search)


def test_another_space_is_refused(tmp_path):
    work(tmp_path).next()
    text = (tmp_path / "s.yaml").read_text().replace("high: 100", "high: 50")
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(
        SweepError, match=r"of another search: 'axes' has LAMBDA .*\"high\": 100.* there and .*\"high\": 50"
    ):
        planning.prepare(reading.read(tmp_path / "s.yaml", tmp_path / "out"))


def test_probes_have_every_level_and_both_ends(tmp_path):
    (tmp_path / "s.yaml").write_text(TEXT % ("true", 3, "tpe"))
    probes = search.probes(reading.read(tmp_path / "s.yaml", tmp_path / "out"))
    names = ("form", "LAMBDA", "rates", "LAYERS")
    assert {tuple(run.values.get(name) for name in names) for run in probes} == {
        ("paired", "0.01", None, "1"),
        ("paired", "100", None, "1"),
        ("mixed", None, "1:10", "1"),
        ("mixed", None, "10:1", "1"),
        ("paired", "0.01", None, "4"),
    }  # fmt: skip


def test_the_gp_sampler_needs_pytorch(tmp_path, monkeypatch):
    if importlib.util.find_spec("torch") is not None:
        assert len(run_all(work(tmp_path, trials=5, sampler="gp"))) == 5
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SweepError, match="the sampler 'gp' needs PyTorch, which is not installed; install torch, or use 'tpe'"
    ):
        work(tmp_path / "b", sampler="gp")


# Stands in for training: validates every 0.1 s; the later the trial, the worse, so that the last ones are pruned.
PROGRAM = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
names = [word.removeprefix("--run=") for word in sys.argv if word.startswith("--run=")]
number = int(names[0].removeprefix("trial-").partition("__")[0])
score = 0.9 - 0.1 * number
for name in names:
    (pathlib.Path(sys.argv[1]) / name).mkdir(parents=True, exist_ok=True)
for step in range(1, 4 if number < 3 else 300):
    for name in names:
        with (pathlib.Path(sys.argv[1]) / name / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps({"split": "validation", "step": step, "accuracy": score}) + "\\n")
    time.sleep(0.1)
for name in names:
    (pathlib.Path(sys.argv[1]) / name / "result.json").write_text(json.dumps({"best": score, "best_step": 1}))
"""


def test_workers_train_the_trials_and_end_hopeless_ones(tmp_path):
    one = work(tmp_path, trials=6, sampler="random")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "out")]
    lines = []
    executor = workers.Processes(command, workers.slots(1, gpus=[]))
    scheduler.Scheduler(tmp_path / "out", one, executor, lines.append).run()
    states = [entry.state for entry in plan.read_directory(tmp_path / "out")]
    assert states == ["done"] * 6 + ["pruned"] * 6
    assert "trial-0005__RANDOM_SEED-7 pruned" in lines
    sweep = reading.read(tmp_path / "s.yaml", tmp_path / "out")
    line = search.summary(tmp_path / "out", sweep.search)
    assert line.startswith("6 of 6 trials (") and "3 done" in line and "3 pruned" in line
    assert "best on validation: 0.9000, trial-0000 with " in line
