"""The loop: patience, restarts after its decisions, the best parameters, and updates that are not finite."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import pytest

from distill.training import loop as training_loop
from distill.training import reporting, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_patience_ends_a_run_early(tmp_path, arguments):
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=40)
    arguments["validation"] = dataclasses.replace(arguments["validation"], period=2, patience=2, metric="accuracy_low")
    result = train.train(str(tmp_path / "run"), **arguments)
    assert (result.stopped, result.reason) == ("early", "patience")
    assert result.step < 40
    assert result.step == result.best_step + 4


def test_equal_validations_are_warned_of_once_and_a_signal_during_the_test_stops_nothing(
    tmp_path, arguments, monkeypatch, capsys, caplog
):
    monkeypatch.setattr(training_loop, "validation_score", lambda *given: 0.0)
    test = training_loop.Loop._test

    def signalled(self, number, lane):
        os.kill(os.getpid(), signal.SIGTERM)
        return test(self, number, lane)

    monkeypatch.setattr(training_loop.Loop, "_test", signalled)
    arguments["validation"] = dataclasses.replace(arguments["validation"], period=2)
    result = train.train(str(tmp_path / "run"), **arguments)
    warning = f"WARNING {tmp_path / 'run'}: all 4 validations had the same accuracy, 0.0000"
    told = capsys.readouterr().err
    assert result.best_step == 2 and told.count(warning) == 1 and "the student is that of step 2, not of step 8" in told
    assert result.test and result.stopped is None
    assert "SIGTERM: the last step is made; the run ends after its test" in caplog.messages


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, arguments):
    from distill.training import optimizers

    arguments["optimizer"] = optimizers.adamw(1e30, clip_norm=None)
    with pytest.raises(
        FloatingPointError, match=r"the (loss|gradient's norm) is (nan|inf) at step [1-4]; .*replay/step_[1-4]\.json"
    ):
        train.train(str(tmp_path / "run"), **arguments)


class Killed(BaseException):
    """Simulates a process that ends here: no code after it runs."""


def test_an_early_stop_is_remembered(tmp_path, arguments, monkeypatch):
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=40)
    arguments["validation"] = dataclasses.replace(arguments["validation"], period=2, patience=2, metric="accuracy_low")
    whole = train.train(str(tmp_path / "whole"), **arguments)
    with monkeypatch.context() as patch:

        def end(self, number, lane, *args):
            lane.saver.wait()
            raise Killed

        patch.setattr(training_loop.Loop, "_test", end)
        with pytest.raises(Killed):
            train.train(str(tmp_path / "killed"), **arguments)
    assert not (tmp_path / "killed" / reporting.RESULT).exists()
    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "Prefetch", lambda *a: pytest.fail("trained on"))
        again = train.train(str(tmp_path / "killed"), **arguments)
    timed = {"seconds": 0.0, "performance": {}}
    assert dataclasses.replace(again, **timed) == dataclasses.replace(whole, **timed)
    assert again.stopped == "early"
    texts = [(tmp_path / name / "evaluations.jsonl").read_text() for name in ("whole", "killed")]
    assert texts[0] == texts[1]
    (tmp_path / "killed" / reporting.RESULT).unlink()
    longer = {**arguments, "loop": dataclasses.replace(arguments["loop"], train_steps=60)}
    with pytest.raises(
        ValueError, match=r"so a larger TRAIN_STEPS \(now 60, before 40\) trains nothing more: raise PATIENCE"
    ):
        train.train(str(tmp_path / "killed"), **longer)
    patient = {**arguments, "validation": dataclasses.replace(arguments["validation"], patience=3)}
    more = train.train(str(tmp_path / "killed"), **patient)
    direct = train.train(str(tmp_path / "direct"), **patient)
    assert more.step > again.step and dataclasses.replace(more, **timed) == dataclasses.replace(direct, **timed)


def test_best_parameters_of_another_attempt_are_not_tested(tmp_path, arguments, monkeypatch, capsys):
    """A run that is killed after its first validation and before any checkpoint; then one of other settings."""
    with monkeypatch.context() as patch:

        def end(self, number, lane, *args):
            lane.saver.wait()
            raise Killed

        patch.setattr(training_loop.Loop, "_save", end)
        with pytest.raises(Killed):
            train.train(str(tmp_path / "run"), **arguments)
    assert [path.name for path in (tmp_path / "run" / "best").iterdir()] == ["4"]
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=3, log_period=1)
    result = train.train(str(tmp_path / "run"), **arguments)
    assert (
        "WARNING removed best/4: it belongs to an attempt whose later steps were not saved" in capsys.readouterr().err
    )
    assert result.best_step == 3
    assert [path.name for path in (tmp_path / "run" / "best").iterdir()] == ["3"]
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 3]


def test_nothing_that_is_not_finite_is_saved(tmp_path, arguments):
    """Between two log lines: the loss of the last line was a number, and no checkpoint is lost."""
    from distill.training import optimizers

    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=2, log_period=100)
    first = train.train(str(tmp_path / "run"), **arguments)
    (tmp_path / "run" / reporting.RESULT).unlink()
    best = (tmp_path / "run" / "best" / str(first.best_step)).stat().st_mtime
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=8)
    arguments["optimizer"] = optimizers.adamw(1e30)
    message = (
        r"the (loss|gradient's norm) is (nan|inf) at step [34]; nothing .*the newest checkpoint is of step 2; train"
    )
    with pytest.raises(FloatingPointError, match=message):
        train.train(str(tmp_path / "run"), **arguments)
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == ["2"]
    assert (tmp_path / "run" / "best" / str(first.best_step)).stat().st_mtime == best
    arguments["optimizer"] = optimizers.adamw(1e-2)
    assert train.train(str(tmp_path / "run"), **arguments).step == 8


def test_best_parameters_that_were_lost(tmp_path, arguments, capsys):
    first = train.train(str(tmp_path / "run"), **arguments)
    newest = tmp_path / "run" / "checkpoints" / "8"
    (tmp_path / "run" / reporting.RESULT).unlink()
    shutil.rmtree(tmp_path / "run" / "best")
    if first.best_step == 4:  # the newest checkpoint then has other parameters
        with pytest.raises(FileNotFoundError, match="no best parameters under"):
            train.train(str(tmp_path / "run"), **arguments)
        assert "WARNING best/4 is missing: the best is selected among later steps" in capsys.readouterr().err
        shutil.rmtree(newest)
    again = train.train(str(tmp_path / "run"), **arguments)
    assert (again.best_step, again.best, again.test) == (first.best_step, first.best, first.test)


def test_the_host_does_not_run_far_ahead_of_the_devices(tmp_path, arguments, monkeypatch):
    """A stop signal waits for the dispatched updates, so these must be few, however long the log period is."""
    waited, wait = [], jax.block_until_ready

    def noted(value):
        waited.append(value)
        return wait(value)

    monkeypatch.setattr(jax, "block_until_ready", noted)
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=8, log_period=8)
    train.train(str(tmp_path / "run"), **(arguments | {"validation": None}))
    # The first update is waited for when it is compiled; updates 4 to 8 each wait for the one two before.
    assert sum(isinstance(value, dict) and "loss" in value for value in waited) == 1 + 6
