"""Callbacks and metrics of the user, and what is refused as a callback."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from distill.checkpoints.manager import Checkpoints
from distill.tasks import jsonl, registration
from distill.training import checks, reporting, train
from distill.training.callbacks import Callback, Stop

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


class Everything(Callback):
    def __init__(self):
        self.events = []

    def on_log(self, at, metrics):
        assert np.isfinite(metrics["loss"])
        self.events.append(("log", at.step))

    def on_evaluation(self, at, split, evaluation):
        self.events.append((split, at.step, round(evaluation.metrics["accuracy"], 6), len(evaluation.rows)))

    def on_checkpoint(self, at, state):
        assert at.directory.exists()
        assert at.seed == 3
        self.events.append(("checkpoint", int(state.step), at.step))
        self.params = jax.device_get(state.params)


def test_callbacks_run_at_their_steps(tmp_path, arguments):
    seen = Everything()
    result = train.train(str(tmp_path / "run"), **arguments, callbacks=[seen])
    lines = [json.loads(line) for line in (tmp_path / "run" / reporting.EVALUATIONS).read_text().splitlines()]
    scores = [(line["split"], line["step"], round(line["accuracy"], 6)) for line in lines]
    assert [event[:3] for event in seen.events if event[0] in ("validation", "test")] == scores
    assert [event for event in seen.events if event[0] == "log"] == [("log", 4), ("log", 8)]
    assert [event for event in seen.events if event[0] == "checkpoint"] == [("checkpoint", 4, 4), ("checkpoint", 8, 8)]
    assert seen.events[-1][:2] == ("test", result.best_step)
    assert seen.events[-1][3] == 10
    saver = Checkpoints(tmp_path / "run", arguments["model"])
    _, saved = saver.restore_params(seen.params)
    saver.close()
    jax.tree.map(np.testing.assert_array_equal, seen.params, jax.device_get(saved))


def test_an_error_of_a_callback_ends_the_run(tmp_path, arguments):
    class Full(Callback):
        def on_log(self, at, metrics):
            raise RuntimeError(f"no more at {at.step}")

    with pytest.raises(RuntimeError, match="no more at 4"):
        train.train(str(tmp_path / "run"), **arguments, callbacks=[Full()])
    assert train.train(str(tmp_path / "run"), **arguments).step == 8


class Raising(Callback):
    def __init__(self, error, step=3):
        self.error, self.step = error, step

    def on_log(self, at, metrics):
        if at.step == self.step:
            raise self.error


def test_a_callback_ends_a_run_as_patience_does(tmp_path, arguments, capsys, caplog):
    """At a step without validation, with another callback after it; it stays ended without its result, too, until it
    may make more steps."""
    arguments["loop"] = dataclasses.replace(arguments["loop"], log_period=3)
    seen, run = Everything(), tmp_path / "run"
    result = train.train(str(run), **arguments, callbacks=[Raising(Stop("it is flat")), seen])
    assert f"{run}: stopped after step 3 by Raising: it is flat" in capsys.readouterr().err
    assert (result.stopped, result.step, result.best_step) == ("early", 3, 3)
    assert json.loads((run / reporting.RESULT).read_text())["reason"] == "callback Raising: it is flat"
    assert "accuracy" in result.test and (run / "checkpoints" / "3").exists()
    assert [event[:2] for event in seen.events] == [("log", 3), ("validation", 3), ("checkpoint", 3), ("test", 3)]
    assert train.train(str(run), **arguments) == result
    (run / reporting.RESULT).unlink()
    again = train.train(str(run), **arguments)
    assert (again.step, again.reason) == (3, result.reason)
    (run / reporting.RESULT).unlink()
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=9)
    more = train.train(str(run), **arguments)
    assert (more.stopped, more.reason, more.step) == (None, None, 9)
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=12)
    caplog.clear()
    assert train.train(str(run), **arguments) == more
    assert [text for text in caplog.messages if "is complete at step 9" in text and "train_steps is 12" in text]


def test_a_callback_that_ends_a_run_at_its_last_step_changes_nothing(tmp_path, arguments):
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=3)
    result = train.train(str(tmp_path / "run"), **arguments, callbacks=[Raising(Stop())])
    assert (result.stopped, result.reason, result.step) == (None, None, 3)


def test_a_callback_that_interrupts_leaves_a_checkpoint(tmp_path, arguments):
    arguments["loop"] = dataclasses.replace(arguments["loop"], log_period=3)
    result = train.train(str(tmp_path / "run"), **arguments, callbacks=[Raising(KeyboardInterrupt())])
    assert (result.stopped, result.step, result.test) == ("SIGINT", 3, {})
    result = train.train(str(tmp_path / "run"), **arguments)
    assert (result.stopped, result.step, result.performance["attempts"]) == (None, 8, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Everything(), r"callbacks must be a list; got Everything; write callbacks=\[Everything\(…\)\]"),
        (Everything, r"callbacks must be a list; got Everything; write callbacks=\[Everything\(…\)\]"),
    ],
)
def test_callbacks_are_a_list(tmp_path, arguments, given, message):
    with pytest.raises(TypeError, match=message):
        train.train(str(tmp_path / "run"), **arguments, callbacks=given)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Everything, r"callbacks\[0\] must be an instance; got the class Everything; write Everything\(\)"),
        (print, r"callbacks\[0\] must have the methods on_log, on_evaluation and on_checkpoint; got builtin_function"),
    ],
)
def test_what_is_no_callback_is_refused_before_any_work(tmp_path, arguments, item, message):
    with pytest.raises(TypeError, match=message):
        train.train(str(tmp_path / "run"), **arguments, callbacks=[item])
    with pytest.raises(TypeError, match=message):
        checks.check(**arguments, callbacks=[item])
    assert not (tmp_path / "run").exists()


def test_a_metric_of_ones_own_selects_the_best_parameters(tmp_path, arguments):
    def minus_length(targets, predictions):
        assert [target.text for target in targets]
        return {"minus_length": -sum(map(len, predictions)) / len(predictions)}

    files = {split: tmp_path / f"{split}.jsonl" for split in ("train", "validation", "test")}
    fields = {"input": "question", "rationale": "why", "label": "answer"}
    registration.register(jsonl.dataset(files, name="sums", fields=fields), "bytes", label_metrics=[minus_length])
    arguments["validation"] = dataclasses.replace(arguments["validation"], metric="minus_length")
    result = train.train(str(tmp_path / "run"), **arguments)
    assert {"accuracy", "accuracy_low", "minus_length"} <= set(result.test)
    lines = [json.loads(line) for line in (tmp_path / "run" / reporting.EVALUATIONS).read_text().splitlines()]
    assert result.best == max(line["minus_length"] for line in lines if line["split"] == "validation")
