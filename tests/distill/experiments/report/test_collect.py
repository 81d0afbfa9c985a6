"""Runs are found in sweeps, alone and in folders; what is missing is named in one line."""

import json

import pytest
from etils import epath

from distill import locking
from distill.experiments.report import collect
from distill.experiments.report.collect import ReportError
from distill.inference import own_files
from distill.training import timing
from tests.distill.experiments.report import synthetic


def run(directory, **more):
    settings = {"configuration": {"FORM": "label", "RANDOM_SEED": 3}, **more}
    return synthetic.write_run(directory, [True, False, True, True], **settings)


def test_a_sweep_has_runs_failures_and_waiting_ones(rates):
    found = collect.collect([rates])
    assert len(found.runs) == 60
    assert found.runs[0].axes == {"NORMALIZER": "task_tokens", "rates": "1:4", "RANDOM_SEED": "0"}
    assert [(each.state, each.error) for each in found.unfinished] == [
        ("failed", "loss is not finite at step 120"), ("waiting", ""),
    ]  # fmt: skip


def test_runs_alone_in_a_folder_and_twice(tmp_path):
    first, _ = run(tmp_path / "all" / "a"), run(tmp_path / "all" / "b")
    assert [each.name for each in collect.collect([tmp_path / "all", first]).runs] == ["a", "b"]
    (only,) = collect.collect([first]).runs
    assert (only.seed, only.score("accuracy"), only.fingerprint("test")) == ("3", 0.75, "test0")
    assert only.configuration == {"FORM": "label"}


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda d: (d / "record.json").unlink(), "has result.json and no record.json: an earlier version trained it"),
        (lambda d: (d / "record.json").write_text("{"), "record.json is not JSON"),
        (lambda d: (d / "record.json").write_text("[" * 100_000), "record.json is not JSON"),
        (
            lambda d: change(d, lambda r: r["configuration"].update(A=nested(600))),
            "record.json is no record: .* too deeply",
        ),
        (lambda d: (d / "result.json").unlink(), "no run is finished: 1 stopped; a was stopped: run its"),
        (lambda d: change(d, lambda r: r.pop("training")), "training is missing"),
        (lambda d: change(d, lambda r: r.update(selection=None)), "trained without validation"),
        (lambda d: change(d, lambda r: r["data"].pop("test")), "trained without test rows, .*TEST_SPLIT"),
    ],
)
def test_what_is_missing_is_named(tmp_path, spoil, message):
    directory = run(tmp_path / "a")
    spoil(directory)
    with pytest.raises(ValueError, match=message) as error:
        collect.collect([directory])
    assert "\n" not in str(error.value)


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


def change(directory, edit):
    content = json.loads((directory / "record.json").read_text())
    edit(content)
    (directory / "record.json").write_text(json.dumps(content))


def test_a_run_that_was_stopped_before_its_end_is_named(tmp_path):
    """It has no record yet; beside finished runs it is listed as unfinished."""
    directory = tmp_path / "all" / "tiny"
    directory.mkdir(parents=True)
    timing.Attempts(epath.Path(directory), 0, started=0.0).made(37)
    for path in (directory, directory.parent):
        with pytest.raises(ReportError) as error:
            collect.collect([path])
        assert str(error.value) == (
            "no run is finished: 1 stopped; tiny was stopped at step 37: run its distill train command again, which "
            "starts it again"
        )
    (directory / "checkpoints" / "30").mkdir(parents=True)
    with pytest.raises(ReportError, match=r"tiny was stopped at step 37: .* again, which continues it"):
        collect.collect([directory])
    (directory / own_files.REACHED).unlink()
    (directory / own_files.ATTEMPTS).unlink()
    (directory / "checkpoints" / "30").rmdir()
    (directory / own_files.CONFIG).write_text("")  # the start writes it before it reads the data
    with pytest.raises(ReportError, match=r"1 stopped; tiny was stopped: run its .*, which starts it again"):
        collect.collect([directory.parent])
    run(tmp_path / "all" / "done")
    (left,) = collect.collect([directory.parent]).unfinished
    assert (left.name, left.state, left.to_do) == ("tiny", "stopped", False)
    with locking.held(locking.of_directory(directory), "a training"):
        assert collect.collect([directory.parent]).unfinished[0].state == "running"
    synthetic.write_sweep(tmp_path, [], waiting=["LAMBDA-1__RANDOM_SEED-0"])
    with pytest.raises(
        ReportError, match=f"no run is finished: 1 waiting; distill sweep {tmp_path} trains those that wait"
    ):
        collect.collect([tmp_path])


def test_folders_without_runs(tmp_path):
    with pytest.raises(ReportError, match="contains no run"):
        collect.collect([tmp_path])
    with pytest.raises(ReportError, match="does not exist"):
        collect.collect([tmp_path / "nowhere"])


def test_predictions(tmp_path):
    directory = run(tmp_path / "a")
    found = collect.read_predictions(directory, keep_rows=True)
    assert found.ids == ("row-0", "row-1", "row-2", "row-3") and found.correct.tolist() == [True, False, True, True]
    assert found.rows[1]["prediction"] == "yes"
    assert collect.read_predictions(directory, "validation") is None
    path = directory / "predictions" / "test.jsonl"
    path.write_text(path.read_text().replace('"correct": true', '"correct": null', 1))
    assert collect.read_predictions(directory).correct is None
    path.write_text('{"id": "a", "correct": true}\nnothing\n')
    with pytest.raises(ReportError, match=r"test.jsonl:2 is no prediction"):
        collect.read_predictions(directory)


@pytest.mark.parametrize(
    ("configuration", "name"),
    [
        ({"DATASET": "@demo_world.dataset()"}, "demo_world"),
        ({"DATASET": "@a/b/svamp.dataset()"}, "svamp"),
        ({"DATASET": "@jsonl.dataset()", "DATASET_NAME": "example", "FILES": {"test": "t.jsonl"}}, "example"),
        ({"DATASET_NAME": "jsonl", "FILES": {"train": "a/b.jsonl", "test": "c/d.jsonl"}}, "d.jsonl"),
        ({"DATASET_NAME": "rows", "FILES": {"train": ["r/x.jsonl", "r/y.jsonl"]}}, "x.jsonl, y.jsonl"),
        ({"DATASET": "%OTHER"}, ""),
        ({}, ""),
    ],
)
def test_a_data_set_without_a_name_is_called_by_its_files(tmp_path, configuration, name):
    directory = synthetic.write_run(tmp_path / "a", [True, False], configuration=configuration)
    (found,) = collect.collect([directory]).runs
    assert found.data_name() == name
