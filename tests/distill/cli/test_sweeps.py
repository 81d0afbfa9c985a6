"""``distill sweep``: dry runs, single points, status and workers, on a tiny student."""

import json
import logging
import re

import pytest

from distill import exit_codes, terminal
from distill.api import configuration
from distill.cli import experiments, main, sweep_checks, sweeps
from distill.experiments import sweep
from distill.experiments.report import terminal as report_terminal
from distill.experiments.sweep import SweepError, leases, outcomes, plan, planning
from tests_support import begin_run, write_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

FILE = """
gin_files: [gin/models/t5_1_1_tiny.gin, gin/tasks/jsonl.gin, gin/runs/distill.gin, gin/hardware/cpu.gin]
bindings:
  FILES: {train: FOLDER/train.jsonl, test: FOLDER/test.jsonl}
  FIELDS: {input: question, rationale: why, label: answer}
  VOCABULARY_PATH: bytes
  VOCAB_SIZE: 384
  TRAIN_STEPS: 2
  EVAL_PERIOD: 2
  TASK_FEATURE_LENGTHS: {inputs: 48, targets: 48}
  MAX_DECODE_LEN: 4
  EVAL_BATCH_SIZE: 8
  network.T5Config.num_encoder_layers: 1
  network.T5Config.num_decoder_layers: 1
  network.T5Config.embed_dim: 16
  network.T5Config.mlp_dim: 16
  network.T5Config.num_heads: 2
  BATCH_SIZE: 4
  partitioning.MeshConfig.data: 1
  DROPOUT_RATE: 0.0
directory: FOLDER/out
"""


@pytest.fixture
def sweep_file(tmp_path):
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(tmp_path / "test.jsonl", 10, start=50)
    path = tmp_path / "sweep.yaml"

    def write(axes):
        path.write_text(FILE.replace("FOLDER", str(tmp_path)) + axes)
        return str(path)

    return write


def test_a_dry_run_then_one_run_then_workers_for_the_rest(sweep_file, tmp_path, capfd):
    """What a user does: look, train one point, look again, and let workers do the rest."""
    path = sweep_file("axes: {rates: {ratio: [1, 4]}}")
    text = (tmp_path / "sweep.yaml").read_text()
    (tmp_path / "sweep.yaml").write_text(text.replace("bindings:\n", "bindings:\n  FORM: mixed\n", 1))
    assert main.main(["sweep", path, "--dry_run"]) == 0
    said = capfd.readouterr().out
    assert (
        "2 runs to do" in said
        and "the time is unknown: no run is finished." in said
        and "--index=0 trains the first run" in said
    )
    assert "axis 'rates' does not change the weight of the tasks in 2 of 2 runs" in said.replace("\n", " ")
    assert not (tmp_path / "out").exists()

    assert main.main(["sweep", path, "--index=0"]) == 0
    states = {entry.name: entry.state for entry in sweep.read_directory(tmp_path / "out")}
    assert states == {"rates-1_1": "done", "rates-4_1": "waiting"}
    capfd.readouterr()
    assert main.main(["sweep", path, "--dry_run", "--price_per_chip_hour=2"]) == 0
    said = capfd.readouterr().out
    assert "2 runs: 1 finished, which are kept, and 1 to do" in said
    assert "1 run to do" in said and " core-hours (from 1 finished run)" in said
    record = json.loads((tmp_path / "out" / "rates-1_1" / "record.json").read_text())
    assert f"{record['training']['flops_per_step']:.3g}" in said, "forecast and record count alike"
    assert record["training"]["flops"] == 2 * record["training"]["flops_per_step"]
    assert re.search(r"cost \d+\.\d\d at 2 per core-hour", said)
    assert re.search(r"│ +2 │ [^│]+ │ +2 │ done +│", said) and re.search(r"│ +2 │ [^│]+ │ +│ waiting │", said)
    outcomes.note_failure(plan.read_plan(tmp_path / "out").runs[1], "the loss is nan")
    assert main.main(["sweep", path, "--dry_run"]) == 0
    assert "2 runs: 1 finished, which are kept, 1 failed, and 0 to do" in capfd.readouterr().out
    outcomes.forget_failure(plan.read_plan(tmp_path / "out").runs[1])

    assert main.main(["sweep", path, "--workers=1"]) == 0
    said = capfd.readouterr().out
    assert "2 runs, 1 done already, 1 to do" in said
    assert "rates-4_1 started on worker 1" in said and "rates-4_1 done: validation " in said
    assert (tmp_path / "out" / "results.csv").read_text().count("\n") == 3
    assert "step 2/2" in (tmp_path / "out" / "rates-4_1" / "sweep.log").read_text()
    assert main.main(["sweep", "status", str(tmp_path / "out")]) == 0
    assert "2 runs: 2 done" in capfd.readouterr().out
    assert main.main(["sweep", str(tmp_path / "out"), "--run=rates-1_1"]) == 0  # done; the directory alone suffices

    seed = ["sweep", path, '--more={"rates": "1:1", "RANDOM_SEED": 5}', "--dry_run"]
    assert main.main(seed) == 0
    train = tmp_path / "train.jsonl"
    write_rows(train, 41)
    before = (tmp_path / "out" / "sweep.json").read_text()
    new = "--run=rates-1_1__RANDOM_SEED-5"
    for command in (seed, [*seed, new], seed[:-1], [*seed[:-1], new], [*seed[:-1], "--workers=1"]):
        capfd.readouterr()
        assert main.main(command) == exit_codes.MISTAKE
        text = (
            f"the rows of {train} have changed since rates-1_1, rates-4_1 of {tmp_path / 'out'} began: the runs to do"
        )
        assert text in capfd.readouterr().err
        assert (tmp_path / "out" / "sweep.json").read_text() == before
    assert main.main(["sweep", path, "--drop_more", "--dry_run"]) == 0
    said = capfd.readouterr().out
    assert f"the training rows ({train}) have changed since rates-1_1 and 1 more were trained: no run is to do" in said


def test_mistakes_are_told_before_anything_is_trained(sweep_file, tmp_path, capsys):
    path = sweep_file("axes: {RANDOM_SEED: [0, 1, 2]}")
    for given, message in (
        (["--index=3"], "--index must be 0 to 2; got 3"),
        (["--dry_run", "--index=99"], "--index must be 0 to 2; got 99"),
        (["--dry_run", "--run=RANDOM_SEED-9"], "did you mean"),
        (["--run=x"], "has no run 'x'; `distill sweep status` lists its runs"),
        (["--dry_run", "--price_per_chip_hour=0"], "--price_per_chip_hour must be > 0; got 0.0"),
        (["more"], "distill sweep takes one file or directory"),
    ):
        assert main.main(["sweep", path, *given]) == exit_codes.MISTAKE
        assert message in capsys.readouterr().err
    assert main.main(["sweep", "status", str(tmp_path)]) == exit_codes.MISTAKE
    assert "holds no sweep.json; is it the directory of a sweep?" in capsys.readouterr().err
    short = "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 48}"
    assert main.main(["sweep", path, "--dry_run", "--index=2", short, "--gin.EVAL_PERIOD=3"]) == exit_codes.DONE
    said = capsys.readouterr().out
    assert "\nWARNING EVAL_PERIOD=3 and TRAIN_STEPS=2: the run validates once, after its last step" in said
    assert re.search(
        r"\nWARNING 100\.00% of the \d\d training sequences are longer than the window and are cut: ", said
    )
    assert "1 run to do" in said and re.search(r"│ 2 +│", said) and not re.search(r"│ [01] +│", said)
    assert not list(tmp_path.glob("out/*/result.json"))


def test_an_axis_without_an_effect_is_an_error_before_any_run(sweep_file, tmp_path, capsys):
    for axes, message in (
        (
            "axes: {rates: {ratio: [1, 4]}}",
            "sweep.yaml:22 (levels 1:1, 4:1) changes nothing in any run: FORM=paired draws no mixture; set FORM=mixed",
        ),
        (
            "axes: {size: {a: {bindings: {LAMBDA: 2}}, b: {bindings: {LAMBDA: 2}}}, RANDOM_SEED: [0, 1]}",
            "sweep.yaml:22 (levels a, b) changes nothing in any run: every level gives the same configuration",
        ),
    ):
        for given in ([], ["--dry_run"]):
            assert main.main(["sweep", sweep_file(axes), *given]) == exit_codes.MISTAKE
            assert message in capsys.readouterr().err
        assert not (tmp_path / "out" / "sweep.json").exists()


def test_equal_compute_is_resolved_in_the_plan(sweep_file, tmp_path, capsys):
    path = sweep_file(
        "axes:\n"
        "  batch: {small: {bindings: {BATCH_SIZE: 4}}, large: {bindings: {BATCH_SIZE: 8}}}\n"
        "  budget: {budget: [steps, compute], reference: {batch: large}}\n"
        "  RANDOM_SEED: [0, 1, 2]\n"
    )
    write_rows(tmp_path / "train.jsonl", 25)
    write_rows(tmp_path / "test.jsonl", 10, start=25)
    assert main.main(["sweep", path, "--gin.LOG_PERIOD=1", "--prepare"]) == 0
    assert "WARNING" not in capsys.readouterr().err
    runs = json.loads((tmp_path / "out" / "sweep.json").read_text())["runs"]
    steps = {name: entry["bindings"][-1] for name, entry in runs.items() if name.endswith("SEED-0")}
    assert steps == {
        "batch-small__budget-steps__RANDOM_SEED-0": "TRAIN_STEPS = 2",
        "batch-small__budget-compute__RANDOM_SEED-0": "TRAIN_STEPS = 4",  # half the operations per step
        "batch-large__budget-steps__RANDOM_SEED-0": "TRAIN_STEPS = 2",
        "batch-large__budget-compute__RANDOM_SEED-0": "TRAIN_STEPS = 2",
    }
    assert all("LOG_PERIOD = 1" in entry["bindings"] for entry in runs.values())

    outcomes.note_failure(plan.read_plan(tmp_path / "out").runs[0], "the loss is nan")
    capsys.readouterr()
    assert main.main(["sweep", path, "--gin.LOG_PERIOD=1", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "1 run failed before; --retry_failed repeats failed runs" in said and "11 runs to do" in said
    assert len(re.findall("│ waiting │", said)) == 11 and len(re.findall("│ failed  │", said)) == 1


def test_named_runs_are_trained_in_their_groups_with_the_leases_of_all(sweep_file, tmp_path, monkeypatch, capsys):
    path, out = (
        sweep_file("axes: {LAMBDA: [0.1, 1.0, 3.0], RANDOM_SEED: [0, 1]}\njoint_seeds: true\n"),
        tmp_path / "out",
    )
    trained = []

    def train_group(runs, joint, options):
        held = [level for level in ("0.1", "1.0", "3.0") if leases.is_held(out, f"LAMBDA-{level}__RANDOM_SEED-0")]
        trained.append(([run.name for run in runs], joint, held))
        return {runs[0].name: "the loss is nan"} if len(trained) == 1 else {}

    monkeypatch.setattr(experiments, "train_group", train_group)
    names = ["LAMBDA-3.0__RANDOM_SEED-1", "LAMBDA-0.1__RANDOM_SEED-1", "LAMBDA-0.1__RANDOM_SEED-0"]
    given = ["sweep", path, *(f"--run={name}" for name in names)]
    assert main.main(given) == exit_codes.SOME_FAILED
    assert capsys.readouterr().err.splitlines()[-1] == f"failed: {names[2]}: the loss is nan"
    assert trained == [(names[:0:-1], True, ["0.1", "3.0"]), (names[:1], True, ["0.1", "3.0"])]
    assert main.main(given) == exit_codes.SOME_FAILED
    assert [group for group, *_ in trained[2:]] == [names[1:2], names[:1]], "a failed run is skipped"

    with leases.claim(out, "LAMBDA-3.0__RANDOM_SEED-0"):
        assert main.main(given) == exit_codes.MISTAKE
    assert f"{names[0]} is being trained by another worker" in capsys.readouterr().err
    assert len(trained) == 4, "nothing was trained"


def test_failed_runs_are_repeated_only_where_they_are_named(sweep_file, tmp_path, monkeypatch, capsys):
    path, out = sweep_file("axes: {RANDOM_SEED: [0, 1, 2]}"), tmp_path / "out"
    made, trained = planning.prepare(sweep.read(path, out)), []
    for run in made.runs:
        outcomes.note_failure(run, "the loss is nan")
    monkeypatch.setattr(experiments, "train_group", lambda runs, *_: trained.extend(run.name for run in runs) or {})
    assert main.main(["sweep", path, "--index=1", "--retry_failed"]) == exit_codes.DONE
    assert [outcomes.failure(run) is not None for run in made.runs] == [True, False, True]
    assert main.main(["sweep", path, "--run=RANDOM_SEED-2", "--retry_failed"]) == exit_codes.DONE
    assert [outcomes.failure(run) is not None for run in made.runs] == [True, False, False]
    assert trained == ["RANDOM_SEED-1", "RANDOM_SEED-2"]

    def finish(runs, *_):
        for run in runs:
            run.directory.mkdir(exist_ok=True)
            (run.directory / "result.json").write_text("{}")
        return {}

    written = []
    monkeypatch.setattr(experiments, "train_group", finish)
    monkeypatch.setattr(report_terminal, "write_all", lambda sweep: written.append([run.name for run in sweep.runs()]))
    (out / "results.csv").touch()
    assert main.main(["sweep", path, "--index=1"]) == exit_codes.DONE
    assert f"results.csv and report lack these runs: distill sweep {out} --report_only" in capsys.readouterr().out
    assert main.main(["sweep", path, "--run=RANDOM_SEED-2"]) == exit_codes.DONE
    assert written == [[run.name for run in made.runs]], "those that failed have ended, too"
    assert main.main(["sweep", path, "--run=RANDOM_SEED-0", "--retry_failed"]) == exit_codes.DONE
    assert len(written) == 2 and f"distill report {out}" in capsys.readouterr().err


def test_a_point_that_was_deleted_from_the_file_is_dropped_and_named(sweep_file, tmp_path, monkeypatch, capsys):
    axes, out = "axes: {LAMBDA: [1, 3]}\n", tmp_path / "out"
    monkeypatch.setattr(experiments, "train_group", lambda runs, *_: {run.name: "the loss is nan" for run in runs})
    path = sweep_file(f"{axes}more:\n- {{LAMBDA: [4, 5]}}\n")
    assert main.main(["sweep", path, "--run=LAMBDA-4", '--more={"LAMBDA": 6}']) == exit_codes.SOME_FAILED
    sweep_file(axes)
    capsys.readouterr()
    text = f"2 runs of {out} are not in this sweep any more (LAMBDA-4 (failed), LAMBDA-5 (waiting)): left out of table"
    assert main.main(["sweep", path, "--dry_run"]) == exit_codes.DONE
    assert text in capsys.readouterr().out
    assert main.main(["sweep", path, "--prepare"]) == exit_codes.DONE
    assert text in capsys.readouterr().err
    names = ["LAMBDA-1", "LAMBDA-3", "LAMBDA-6"]
    assert [run.name for run in plan.read_plan(out).runs] == names, "what --more added is kept"
    assert outcomes.failure(sweep.read(path, out).run_at({"LAMBDA": sweep.Level("4")})), "so is the failed run's folder"

    assert main.main(["sweep", str(out), "--prepare", '--more={"LAMBDA": 7}']) == exit_codes.DONE
    assert [run.name for run in plan.read_plan(out).runs] == [*names, "LAMBDA-7"]
    for drop, more, name in ((7, 8, "LAMBDA-8"), (8, 7, "LAMBDA-7")):
        given = [f'--drop_more={{"LAMBDA": {drop}}}', f'--more={{"LAMBDA": {more}}}', "--prepare"]
        assert main.main(["sweep", str(out), *given]) == exit_codes.DONE
        assert [run.name for run in plan.read_plan(out).runs] == [*names, name]
    capsys.readouterr()
    assert main.main(["sweep", str(out), '--drop_more={"LAMBDA": 9}', "--dry_run"]) == exit_codes.DONE
    said = capsys.readouterr()
    text = "--drop_more drops nothing: no point that --more added has {'LAMBDA': 9}; there are [{'LAMBDA': 6}, "
    assert text in (said.out + said.err) and "5 runs" not in said.out
    assert main.main(["sweep", str(out), "--drop_more", "--run=LAMBDA-1"]) == exit_codes.SOME_FAILED
    assert "2 runs of" in (said := capsys.readouterr().err) and "LAMBDA-6 (waiting), LAMBDA-7 (waiting)" in said
    assert "left out of table and report\n" in said and "the folders are kept" not in said, "they have none"
    assert [run.name for run in plan.read_plan(out).runs] == names[:2]
    restart = "1 run that failed starts from the beginning: the configuration has changed (LAMBDA-1)"
    for binding, number in (("0.0", 0), ("0.5", 1)):
        assert main.main(["sweep", path, "--dry_run", f"--gin.DROPOUT_RATE={binding}"]) == exit_codes.DONE
        said = capsys.readouterr().out
        assert said.count(restart) == number and said.count("1 run failed before") == 1 - number
    (todo,) = re.findall(r"2 runs to do, .* floating-point operations", said)
    (out / "LAMBDA-1" / "config.gin").touch()
    (out / "LAMBDA-1" / "checkpoints" / "1").mkdir(parents=True)
    write_rows(tmp_path / "train.jsonl", 41)
    compared = []
    refuse = sweep_checks.Configurations.refuse_changed_rows
    monkeypatch.setattr(
        sweep_checks.Configurations,
        "refuse_changed_rows",
        lambda self, runs, continued: compared.append([run.name for run in continued]) or refuse(self, runs, continued),
    )
    assert main.main(["sweep", path, "--dry_run", "--gin.DROPOUT_RATE=0.5"]) == exit_codes.DONE
    assert todo in capsys.readouterr().out, "a run that starts again has all its steps to do, and reads its rows anew"
    assert main.main(["sweep", path, "--run=LAMBDA-1", "--gin.DROPOUT_RATE=0.5"]) == exit_codes.SOME_FAILED
    assert compared == [["LAMBDA-3"], []]


def test_a_plan_that_does_not_tell_added_points_apart_keeps_all(sweep_file, tmp_path):
    path, out = sweep_file("axes: {LAMBDA: [1, 3]}\nmore:\n- {LAMBDA: 4}\n"), tmp_path / "out"
    planning.prepare(sweep.read(path, out))
    written = json.loads((out / "sweep.json").read_text())
    del written["added_points"]
    (out / "sweep.json").write_text(json.dumps(written))
    assert plan.added_points(out) == [{"LAMBDA": 4}] and plan.added_points(tmp_path) == []
    sweep_file("axes: {LAMBDA: [1, 3]}\n")
    assert main.main(["sweep", path, "--prepare"]) == exit_codes.DONE
    assert [run.name for run in plan.read_plan(out).runs][2:] == ["LAMBDA-4"]
    assert main.main(["sweep", path, "--prepare", "--drop_more"]) == exit_codes.DONE
    assert len(plan.read_plan(out).runs) == 2


def test_a_gin_file_that_was_edited_after_a_run_is_noticed(sweep_file, tmp_path, monkeypatch, capsys):
    """Its path is the same, so the files and bindings of the plan are, too."""
    own, out = tmp_path / "own.gin", tmp_path / "out"
    own.write_text("LOG_PERIOD = 1\nLABEL_PREFIX = 'label: '\n")
    path = sweep_file("axes: {LAMBDA: [1, 3], RANDOM_SEED: [0, 1]}")
    file = tmp_path / "sweep.yaml"
    file.write_text(file.read_text().replace("gin/hardware/cpu.gin]", f"gin/hardware/cpu.gin, {own}]"))

    def train_group(runs, joint, options):
        for run in runs:
            experiments.configure_run(run, options)
            begin_run(run)
            (run.directory / "config.gin").write_text(configuration.resolved())
            (run.directory / "result.json").write_text("{}")
        return {}

    monkeypatch.setattr(experiments, "train_group", train_group)
    assert main.main(["sweep", path, "--run=LAMBDA-1__RANDOM_SEED-0", "--run=LAMBDA-3__RANDOM_SEED-0"]) == 0
    own.write_text("LOG_PERIOD = 5\nLABEL_PREFIX = 'label: '\n")  # which changes no student
    assert main.main(["sweep", path, "--run=LAMBDA-1__RANDOM_SEED-1"]) == 0
    own.write_text("LABEL_PREFIX = 'answer: '\n")
    before = (out / "sweep.json").read_text()
    for flag in ("--dry_run", "--prepare", "--run=LAMBDA-3__RANDOM_SEED-1"):
        capsys.readouterr()
        assert main.main(["sweep", path, flag]) == exit_codes.MISTAKE
        said = capsys.readouterr().err
        assert f"{out} holds runs of another configuration: LAMBDA-1__RANDOM_SEED-0 has LABEL_PREFIX " in said
        assert '"label: " there and "answer: " in this sweep (2 other runs differ, too); a gin file may' in said
    assert (out / "sweep.json").read_text() == before
    for name in ("LAMBDA-1__RANDOM_SEED-0", "LAMBDA-1__RANDOM_SEED-1", "LAMBDA-3__RANDOM_SEED-0"):
        (out / name / "result.json").unlink()
        outcomes.note_failure(next(run for run in plan.read_plan(out).runs if run.name == name), "the loss is nan")
    assert main.main(["sweep", path, "--prepare"]) == 0
    assert not (out / "LAMBDA-1__RANDOM_SEED-0").exists(), "a failed run starts again"


def test_joint_seeds_are_refused_in_several_processes(monkeypatch):
    sweeps._refuse_processes()
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(
        SweepError, match=r"one device of one process; got 2 processes\. Start the command in one process"
    ):
        sweeps._refuse_processes()


def test_a_report_on_nothing_is_an_error(sweep_file, tmp_path, capsys):
    path, out = sweep_file("axes: {RANDOM_SEED: [0, 1]}"), tmp_path / "out"
    assert main.main(["sweep", path, "--report_only"]) == exit_codes.MISTAKE
    assert f"{out} does not exist; `distill sweep {path}` starts the sweep" in capsys.readouterr().err
    out.mkdir()
    assert main.main(["sweep", path, "--report_only"]) == exit_codes.MISTAKE
    assert "holds no sweep.json; is it the directory of a sweep?" in capsys.readouterr().err
    made = planning.prepare(sweep.read(path, out))
    assert main.main(["sweep", path, "--report_only"]) == exit_codes.MISTAKE
    assert f"no run of {out} has ended, so nothing was written" in capsys.readouterr().err
    outcomes.note_failure(made.runs[0], "the loss is nan")
    assert main.main(["sweep", path, "--report_only"]) == exit_codes.SOME_FAILED
    assert (out / "results.csv").exists()


def test_a_report_changes_no_run(sweep_file, tmp_path, capsys):
    path, out = sweep_file("axes: {RANDOM_SEED: [0, 1]}"), tmp_path / "out"
    made = planning.prepare(sweep.read(path, out))
    begin_run(made.runs[0])
    outcomes.note_failure(made.runs[0], "the loss is nan")
    before = (out / "sweep.json").read_text()
    sweep_file("axes: {RANDOM_SEED: [0, 1, 2]}")
    (tmp_path / "sweep.yaml").write_text(
        (tmp_path / "sweep.yaml").read_text().replace("BATCH_SIZE: 4", "BATCH_SIZE: 8")
    )
    old = {run.name: [list(run.gin_files), list(run.bindings)] for run in made.runs}
    for text in (before, json.dumps({"runs": old, "failed": {made.runs[0].name: {"error": "the loss is nan"}}})):
        (out / "sweep.json").write_text(text)
        assert main.main(["sweep", path, "--report_only"]) == exit_codes.SOME_FAILED
        said = capsys.readouterr()
        assert "the loss is nan" in said.err
        if text == before:
            assert (
                f"WARNING {path} differs from the sweep in {out}, which is reported: 1 run only in this file "
                "(RANDOM_SEED-2); 2 runs with another configuration (RANDOM_SEED-0, …); `distill sweep "
            ) in said.err
        assert (made.runs[0].directory / "config.gin").exists(), "the folder of the failed run is kept"
        written = json.loads((out / "sweep.json").read_text())["runs"][made.runs[0].name]
        assert "BATCH_SIZE = 4" in written["bindings"]
        if text == before:
            assert (out / "sweep.json").read_text() == before
    assert planning.prepare(sweep.read(path, out)) and not made.runs[0].directory.exists()


def test_a_report_of_a_sweep_whose_file_has_other_settings_is_that_of_the_directory(sweep_file, tmp_path, capsys):
    path, out = sweep_file("axes: {RANDOM_SEED: [0, 1]}"), tmp_path / "out"
    made = planning.prepare(sweep.read(path, out))
    for run in made.runs:
        begin_run(run)
    outcomes.note_failure(made.runs[0], "the loss is nan")
    before = (out / "sweep.json").read_text()
    file = tmp_path / "sweep.yaml"
    file.write_text(file.read_text().replace("BATCH_SIZE: 4", "BATCH_SIZE: 8"))
    assert main.main(["sweep", path, "--report_only"]) == exit_codes.SOME_FAILED
    said = capsys.readouterr().err
    assert "WARNING" in said and "which is reported: 2 runs with another configuration (RANDOM_SEED-0, …)" in said
    assert (out / "results.csv").exists() and (out / "sweep.json").read_text() == before


def test_a_report_has_the_runs_of_the_plan_in_all_its_parts(sweep_file, tmp_path, capsys):
    path, out = sweep_file("axes: {LAMBDA: [1, 3]}\nmore:\n- {LAMBDA: 1, DROPOUT_RATE: 0.1}\n"), tmp_path / "out"
    for run in planning.prepare(sweep.read(path, out)).runs:
        outcomes.note_failure(run, "the loss is nan")
    assert main.main(["sweep", path, "--report_only"]) == exit_codes.SOME_FAILED
    assert "WARNING" not in capsys.readouterr().err
    sweep_file("axes: {LAMBDA: [1]}\n")
    assert main.main(["sweep", path, "--report_only"]) == exit_codes.SOME_FAILED
    said = capsys.readouterr()
    assert "which is reported: 2 runs only in the directory (LAMBDA-3, …); " in said.err
    assert "DROPOUT_RATE" in said.out and (out / "results.csv").read_text().count("the loss is nan") == 3


def test_a_search_has_no_run_with_an_index(sweep_file, capsys):
    path = sweep_file("axes: {LAMBDA: {low: 0.1, high: 10}}\ndesign: {kind: optuna, trials: 3, sampler: random}\n")
    assert main.main(["sweep", path, "--index=0"]) == exit_codes.MISTAKE
    assert "those of a search are not; give --workers" in capsys.readouterr().err


def test_a_remark_that_all_runs_share_is_shown_once():
    shown = []

    class Collect(logging.Handler):
        def emit(self, record):
            shown.append(record.getMessage())

    handler = Collect()
    handler.setFormatter(terminal.LogFormat())
    logging.getLogger().addHandler(handler)
    try:
        with sweeps._each_message_once():
            for text in ("train: 3 rows rejected", "train: 3 rows rejected", "test: 1 row rejected"):
                logging.warning(text)
            for _ in range(2):
                terminal.notice("starting from a")  # which belongs to one run
        logging.warning("train: 3 rows rejected")
    finally:
        logging.getLogger().removeHandler(handler)
    rows = ["train: 3 rows rejected", "test: 1 row rejected"]
    assert shown == [*rows, "starting from a", "starting from a", "train: 3 rows rejected"]
