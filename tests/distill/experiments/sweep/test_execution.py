"""Grids: every run once, a killed sweep continues, joint seeds equal single ones, and the report adds up."""

import csv
import dataclasses
import json
import re
import types

import pytest

from distill import exit_codes
from distill.cli import main
from distill.experiments import sweep
from distill.experiments.report import terminal as sweep_report
from distill.experiments.sweep import SweepError, execution, leases, planning
from distill.training import event_files, reporting
from tests_support import begin_run, read_lines, write_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture
def sweep_file(tmp_path):
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(tmp_path / "test.jsonl", 10, start=50)
    content = {
        "gin_files": ["gin/models/t5_1_1_tiny.gin", "gin/tasks/jsonl.gin"],
        "bindings": {
            "FILES": {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")},
            "FIELDS": {"input": "question", "rationale": "why", "label": "answer"},
            "VOCABULARY_PATH": "bytes", "VOCAB_SIZE": 384, "TRAIN_STEPS": 2, "EVAL_PERIOD": 2,
            "TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 48}, "MAX_DECODE_LEN": 4, "EVAL_BATCH_SIZE": 8,
            "network.T5Config.num_encoder_layers": 1, "network.T5Config.num_decoder_layers": 1,
            "network.T5Config.embed_dim": 16, "network.T5Config.mlp_dim": 16, "network.T5Config.num_heads": 2,
            "BATCH_SIZE": 4, "MESH": "@partitioning.MeshConfig()", "partitioning.MeshConfig.data": 1, "DROPOUT_RATE": 0.0,
        },
        "axes": {
            "method": {
                "step-by-step": {"gin_files": ["gin/runs/distill.gin", "gin/hardware/cpu.gin"]},
                "standard": {"gin_files": ["gin/runs/finetune.gin", "gin/hardware/cpu.gin"]},
            },
            "SUBSAMPLE": [0.5, 1.0],
            "RANDOM_SEED": [0, 1],
        },
    }  # fmt: skip
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(content))
    return path


def change(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def test_the_grid(sweep_file, tmp_path):
    grid = sweep.read(sweep_file, tmp_path / "out")
    runs = grid.runs()
    assert len(runs) == 8
    assert runs[1].name == "method-step-by-step__SUBSAMPLE-0.5__RANDOM_SEED-1"
    assert runs[-1].gin_files[-2:] == ("gin/runs/finetune.gin", "gin/hardware/cpu.gin")
    assert "SUBSAMPLE = 1.0" in runs[-1].bindings
    assert len(planning.prepare(grid, write=False).groups()) == 8
    change(sweep_file, joint_seeds=True)
    joint = planning.prepare(sweep.read(sweep_file, tmp_path / "out"), write=False)
    assert [len(group) for group in joint.groups()] == [2, 2, 2, 2]


def test_finished_runs_are_not_repeated(sweep_file, tmp_path):
    grid = sweep.read(sweep_file, tmp_path / "out")
    done = []

    def train_group(runs, joint):
        assert not joint
        if len(done) == 3:
            raise KeyboardInterrupt
        for run in runs:
            done.append(run.name)
            run.directory.mkdir(parents=True)
            reporting.write_result(_path(run.directory), {"test": {"accuracy": 0.5}})
        return {}

    with pytest.raises(KeyboardInterrupt):
        sweep.run(grid, train_group, say=lambda text: None)
    first = list(done)
    done.clear()
    with pytest.raises(KeyboardInterrupt):
        sweep.run(grid, train_group, say=lambda text: None)
    assert not set(first) & set(done)


def _path(directory):
    from etils import epath

    return epath.Path(directory)


def test_a_folder_of_another_configuration_is_refused(sweep_file, tmp_path):
    def begin(runs, joint):
        begin_run(runs[0])
        return {}

    sweep.run(sweep.read(sweep_file, tmp_path / "out"), begin, say=lambda text: None)
    content = json.loads(sweep_file.read_text())
    content["bindings"]["TRAIN_STEPS"] = 3
    sweep_file.write_text(json.dumps(content))
    with pytest.raises(SweepError, match="holds runs of another configuration"):
        sweep.run(sweep.read(sweep_file, tmp_path / "out"), lambda runs, joint: {}, say=lambda text: None)


def test_joint_seeds_train_and_stop_like_single_ones(sweep_file, tmp_path, capsys):
    """The whole command, both ways: the same losses, evaluations, end by patience, and predictions."""
    axes = json.loads(sweep_file.read_text())["axes"]
    levels = {"step-by-step": axes["method"]["step-by-step"]}  # joint seeds do not depend on the method
    change(sweep_file, axes={"method": levels, "RANDOM_SEED": [0, 1]})
    settings = [f"--gin.{binding}" for binding in ("TRAIN_STEPS=12", "EVAL_PERIOD=1", "LOG_PERIOD=1", "PATIENCE=2")]
    assert main.main(["sweep", str(sweep_file), "--directory", str(tmp_path / "single"), *settings]) == 0
    change(sweep_file, joint_seeds=True)
    assert main.main(["sweep", str(sweep_file), "--directory", str(tmp_path / "joint"), *settings]) == 0
    runs = sorted(path.parent.name for path in (tmp_path / "single").glob("*/result.json"))
    assert len(runs) == 2
    for name in runs:
        folders = [tmp_path / way / name for way in ("single", "joint")]
        single, joint = (json.loads((folder / "result.json").read_text()) for folder in folders)
        assert (joint["stopped"], joint["step"]) == (single["stopped"], single["step"]) == ("early", 3)
        single, joint = ([row["step"] for row in read_lines(folder / "evaluations.jsonl")] for folder in folders)
        assert single == joint == [1, 2, 3, 1]
        single, joint = (dict(event_files.read(folder / "logs")["train/loss"]) for folder in folders)
        assert set(single) == {1, 2, 3} and joint == pytest.approx(single, rel=1e-4)
        for a, b in zip(*(read_lines(folder / "predictions/test.jsonl") for folder in folders), strict=True):
            assert a["prediction"] == b["prediction"]
            assert a["score"] == pytest.approx(b["score"], abs=1e-2)
        assert (tmp_path / "joint" / name / "best").exists()
    with (tmp_path / "joint" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"step-by-step"}
    assert all(0 <= float(row["test/accuracy"]) <= 1 for row in rows)
    assert (tmp_path / "joint" / "results.png").stat().st_size > 5000
    assert "step-by-step" in capsys.readouterr().out


def test_cells_gather_over_seeds(sweep_file, tmp_path):
    grid = sweep.read(sweep_file, tmp_path / "out")
    for number, run in enumerate(grid.runs()):
        run.directory.mkdir(parents=True)
        result = {"test": {"accuracy": 0.1 * (number % 2)}, "step": 2, "seconds": 1.0, "best": 0.1, "best_step": 2}
        reporting.write_result(_path(run.directory), result)
    found = sweep_report.cells(grid)
    assert len(found) == 4
    assert found[0].mean == pytest.approx(0.05)
    assert found[0].interval.low == 0.0, "an accuracy is at least 0"
    assert found[0].interval.high == pytest.approx(0.05 + 12.706 * 0.0707107 / 2**0.5, rel=1e-4)
    assert sweep_report.numeric_axis(grid) == "SUBSAMPLE"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "must hold an object with 'axes'"),
        ('{"axes": {"A": []}, "directory": "x"}', "axis 'A' must be a list of values"),
        ('{"axes": {"A": [1]}}', "names no 'directory'"),
        ('{"axes": {"A": [1]}, "directory": "x", "colour": 1}', "unknown key 'colour'"),
        ('{"axes": {"A": {"b": 3}}, "directory": "x"}', "level 'b' must be an object"),
        ('{"axes": {"A": {"b": {"gin_files": "c"}}}, "directory": "x"}', "'gin_files' must be a list of strings; got 'c'"),
        ('{"axes": {"A": [1]}, "directory": "x", "gin_files": "a"}', "'gin_files' must be a list of strings; got 'a'"),
        ('{"axes": {"A": [1]}, "directory": 3}', "'directory' must be a string; got 3"),
        ('{"axes": {"A": [1]}, "directory": "x", "bindings": []}', "'bindings' must be an object"),
        ('{"axes": {"A": [1]}, "directory": "x", "x": "B"}', "'x' must be one of the axes"),
    ],
)  # fmt: skip
def test_bad_sweep_files(tmp_path, content, message):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(SweepError, match=message):
        sweep.read(tmp_path / "sweep.json")


def test_equal_levels_are_refused(tmp_path):
    (tmp_path / "sweep.json").write_text('{"axes": {"A": [1, 1]}, "directory": "x"}')
    with pytest.raises(SweepError, match="axis 'A' has the level '1' twice"):
        sweep.read(tmp_path / "sweep.json")


def test_a_stopped_run_stops_the_sweep(sweep_file, tmp_path, monkeypatch, capsys):
    from distill.training import train

    monkeypatch.setattr(train.StopRequest, "requested", lambda self, step: setattr(self, "name", "SIGTERM") or True)
    assert main.main(["sweep", str(sweep_file), "--directory", str(tmp_path / "out")]) == exit_codes.STOPPED
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/result.json"))
    assert len(list((tmp_path / "out").glob("*/checkpoints"))) == 1


def small(path, tmp_path, axes, **bindings):
    """The sweep with other axes, in a folder ``out``."""
    content = json.loads(path.read_text())
    content["gin_files"] += ["gin/runs/distill.gin", "gin/hardware/cpu.gin"]
    content["bindings"].update({"LOG_PERIOD": 1, **bindings})
    content["axes"], content["directory"] = axes, str(tmp_path / "out")
    path.write_text(json.dumps(content))
    return path


def test_a_diverging_run_is_noted_and_the_others_are_trained(sweep_file, tmp_path, capsys):
    small(sweep_file, tmp_path, {"LEARNING_RATE": [1e15, 0.003]})
    assert main.main(["sweep", str(sweep_file)]) == exit_codes.SOME_FAILED
    told = capsys.readouterr()
    assert re.search(r"failed: the (loss|gradient's norm) is (nan|inf) at step", told.out + told.err)
    assert "in the sweep file, replace this point by one with a lower LEARNING_RATE or ON_NONFINITE=" in told.out
    assert "MODEL_DIR" not in told.out + told.err
    assert "│ 1000000000000000.0 │" in told.out  # a row of the table, too
    assert (tmp_path / "out/LEARNING_RATE-0.003/result.json").exists()
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = {row["LEARNING_RATE"]: row for row in csv.DictReader(file)}
    assert rows["0.003"]["error"] == ""
    assert re.match(r"the (loss|gradient's norm) is (nan|inf) at step", rows["1000000000000000.0"]["error"])
    # The restart skips it and still reports it; --retry_failed repeats it.
    assert main.main(["sweep", str(sweep_file)]) == exit_codes.SOME_FAILED
    assert "2 runs, 1 done already, 1 failed before (--retry_failed repeats them), 0 to do" in capsys.readouterr().out
    assert main.main(["sweep", str(sweep_file), "--retry_failed"]) == exit_codes.SOME_FAILED
    assert "[1/1] LEARNING_RATE-1000000000000000.0" in capsys.readouterr().out
    assert main.main(["sweep", str(sweep_file), "--report_only"]) == exit_codes.SOME_FAILED


def test_an_error_of_several_seeds_is_said_once(sweep_file, tmp_path):
    grid, lines = sweep.read(small(sweep_file, tmp_path, {"RANDOM_SEED": [0, 1, 2]}), tmp_path / "out"), []
    grid = dataclasses.replace(grid, joint_seeds=True)
    errors = {"RANDOM_SEED-0": "no rows", "RANDOM_SEED-1": "no rows", "RANDOM_SEED-2": "the loss is nan"}
    sweep.run(grid, lambda runs, joint: errors, say=lines.append)
    said = [
        "RANDOM_SEED-0 failed: no rows",
        "RANDOM_SEED-1 failed as RANDOM_SEED-0 did",
        "RANDOM_SEED-2 failed: the loss is nan",
    ]
    assert lines[2:] == said


def test_a_failed_run_is_repeated_from_its_start_when_it_was_changed(sweep_file, tmp_path):
    grid = sweep.read(small(sweep_file, tmp_path, {"RANDOM_SEED": [0, 1]}))
    trained = []

    def train_group(runs, joint):
        trained.extend((run.name, run.directory.exists()) for run in runs)
        for run in runs:
            run.directory.mkdir(parents=True, exist_ok=True)
        if len(trained) == 1:
            return {runs[0].name: "the loss is nan"}
        for run in runs:
            reporting.write_result(_path(run.directory), {"test": {"accuracy": 0.5}})
        return {}

    assert sweep.run(grid, train_group, say=lambda text: None) == {"RANDOM_SEED-0": "the loss is nan"}
    assert sweep.run(grid, train_group, say=lambda text: None) == {"RANDOM_SEED-0": "the loss is nan"}
    assert trained == [("RANDOM_SEED-0", False), ("RANDOM_SEED-1", False)]
    changed = dataclasses.replace(grid.axes["RANDOM_SEED"][0], bindings=("RANDOM_SEED = 0", "LEARNING_RATE = 1e-4"))
    grid = dataclasses.replace(grid, axes={"RANDOM_SEED": (changed, grid.axes["RANDOM_SEED"][1])})
    assert sweep.run(grid, train_group, say=lambda text: None) == {}
    assert trained[2:] == [("RANDOM_SEED-0", False)]  # nothing of the failed attempt was there
    assert sweep.failures(grid) == {}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"LEARNING_RAT": [0.1]}, "nothing uses LEARNING_RAT (set in axis 'LEARNING_RAT' of "),
        ({"NORMALIZER": ["task_tokens", "task_token"]}, "1 of 2 runs cannot be trained, so none was started: "),
        ({"TRAIN_STEPS": [1, 0]}, "as train.LoopConfig.train_steps: train_steps must be ≥ 1; got 0"),
        ({"FILES": [{"train": "nowhere.jsonl", "test": "nowhere.jsonl"}]}, "nowhere.jsonl is missing"),
        ({"BATCH_SIZE": [4, 3], "NUM_MICROBATCHES": [2]}, "BATCH_SIZE-3__NUM_MICROBATCHES-2: "),
        ({"VOCAB_SIZE": [384, 100]}, "has 384 ids, but the model's vocab_size is 100"),
        ({"INITIAL_CHECKPOINT_PATH": ["/nowhere/at/all"]}, "no checkpoint at /nowhere/at/all"),
        ({"train.ValidationConfig.metric": ["acuracy"]}, "has no metric 'acuracy'; it has "),
    ],
)  # fmt: skip
def test_all_runs_are_checked_before_the_first_is_trained(sweep_file, tmp_path, capsys, monkeypatch, axes, message):
    from distill.training import train

    monkeypatch.setattr(train, "make_train_step", lambda *a, **k: pytest.fail("trained"))
    assert main.main(["sweep", str(small(sweep_file, tmp_path, axes))]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "sweep.json").exists()


def test_a_truncated_plan_is_told_by_name(sweep_file, tmp_path, capsys):
    small(sweep_file, tmp_path, {"RANDOM_SEED": [0]})
    (tmp_path / "out").mkdir()
    for content in ('{"runs": {"RANDOM', '{"runs": []}', "[]", "[" * 100_000):
        (tmp_path / "out" / "sweep.json").write_text(content)
        assert main.main(["sweep", str(sweep_file)]) == 2
        told = capsys.readouterr().err.splitlines()
        assert f"{tmp_path / 'out' / 'sweep.json'} is no" in told[-1]


def test_a_run_of_another_worker_is_waited_for_and_taken_over(sweep_file, tmp_path, monkeypatch):
    """The other worker dies while this one waits: its run is trained here, once."""
    grid = sweep.read(small(sweep_file, tmp_path, {"RANDOM_SEED": [0, 1]}))
    trained, lines = [], []
    lease = leases.claim(tmp_path / "out", "RANDOM_SEED-0")

    def train_group(runs, joint):
        trained.extend(run.name for run in runs)
        for run in runs:
            run.directory.mkdir(parents=True, exist_ok=True)
            reporting.write_result(_path(run.directory), {"test": {"accuracy": 0.5}})
        return {}

    monkeypatch.setattr(execution, "time", types.SimpleNamespace(sleep=lambda seconds: lease.release()))
    assert leases.claim(tmp_path / "out", "RANDOM_SEED-0") is None
    assert sweep.run(grid, train_group, say=lines.append) == {}
    assert trained == ["RANDOM_SEED-1", "RANDOM_SEED-0"]
    assert "waiting for 1 run of other workers; a dead worker's run is taken over" in lines


def test_the_metric_of_the_table_is_one_of_the_task(sweep_file, tmp_path, capsys):
    small(sweep_file, tmp_path, {"RANDOM_SEED": [0, 1]})
    change(sweep_file, metric="rouge_l")
    assert main.main(["sweep", str(sweep_file)]) == 2
    assert "has no metric 'rouge_l'; it has ['accuracy', " in capsys.readouterr().err
