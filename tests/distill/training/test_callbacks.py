"""Callbacks and metrics of the user, from Python and from gin, in one run and in joint seeds."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from distill.checkpoints.manager import Checkpoints
from distill.cli import main
from distill.tasks import jsonl, registration
from distill.training import checks, reporting, train
from distill.training.callbacks import Callback
from tests_support import write_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

MODULE = """
import json
from distill.training.callbacks import Callback

class Notes(Callback):
    def __init__(self, file="notes.jsonl"):
        self.file = file

    def note(self, at, **what):
        with (at.directory / self.file).open("a") as file:
            file.write(json.dumps({"seed": at.seed, "step": at.step, **what}) + chr(10))

    def on_log(self, at, metrics):
        self.note(at, event="log", loss=metrics["loss"])

    def on_evaluation(self, at, split, evaluation):
        self.note(at, event=split, rows=len(evaluation.rows), length=evaluation.metrics["length"])

def length(targets, predictions):
    assert all(target.text for target in targets)
    return {"length": sum(map(len, predictions)) / len(predictions)}
"""


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
    lines = [json.loads(line) for line in (tmp_path / "run" / reporting.VALIDATION).read_text().splitlines()]
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
    lines = [json.loads(line) for line in (tmp_path / "run" / reporting.VALIDATION).read_text().splitlines()]
    assert result.best == max(line["minus_length"] for line in lines if line["split"] == "validation")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A module of the user's, and a sweep of two seeds that names it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_training_code.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(tmp_path / "test.jsonl", 10, start=50)
    (tmp_path / "own.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "import own_training_code\n"
        "from distill.tasks import registration\n"
        "from distill.training import train\n"
        "train.train.callbacks = [@own_training_code.Notes()]\n"
        "registration.register.label_metrics = [@own_training_code.length]\n"
        "own_training_code.Notes.file = 'mine.jsonl'\n"
    )
    bindings = {
        "FILES": {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")},
        "FIELDS": {"input": "question", "rationale": "why", "label": "answer"},
        "VOCABULARY_PATH": "bytes", "VOCAB_SIZE": 384, "TRAIN_STEPS": 2, "EVAL_PERIOD": 2, "LOG_PERIOD": 1,
        "TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 48}, "MAX_DECODE_LEN": 4, "EVAL_BATCH_SIZE": 8,
        "network.T5Config.num_encoder_layers": 1, "network.T5Config.num_decoder_layers": 1,
        "network.T5Config.embed_dim": 16, "network.T5Config.mlp_dim": 16, "network.T5Config.num_heads": 2,
        "BATCH_SIZE": 4, "MESH": "@partitioning.MeshConfig()", "partitioning.MeshConfig.data": 1,
        "train.ValidationConfig.metric": "length",
    }  # fmt: skip
    names = ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")
    content = {
        "gin_files": [*(f"gin/{name}.gin" for name in names), str(tmp_path / "own.gin")],
        "bindings": bindings,
        "axes": {"RANDOM_SEED": [0, 1]},
        "joint_seeds": True,
        "metric": "length",
    }
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(content))
    return path  # the module stays imported: gin registers a configurable once


def test_callbacks_and_metrics_from_gin_in_joint_seeds(project, tmp_path, capsys):
    command = ["sweep", str(project), "--directory", str(tmp_path / "out")]
    assert main.main(command) == 2
    assert "imports own_training_code, which is not trusted; allow it with --gin_module" in capsys.readouterr().err
    assert main.main([*command, "--gin_module=own_training_code"]) == 0
    for seed in (0, 1):
        folder = tmp_path / "out" / f"RANDOM_SEED-{seed}"
        notes = [json.loads(line) for line in (folder / "mine.jsonl").read_text().splitlines()]
        assert {note["seed"] for note in notes} == {seed}
        assert [(note["event"], note["step"]) for note in notes] == [
            ("log", 1),
            ("log", 2),
            ("validation", 2),
            ("test", 2),
        ]
        result = json.loads((folder / "result.json").read_text())
        assert (result["best"], result["test"]["length"]) == (notes[2]["length"], notes[3]["length"])


def test_a_signal_stops_joint_seeds(project, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train.StopRequest, "requested", lambda self, step: setattr(self, "name", "SIGTERM") or True)
    command = ["sweep", str(project), "--directory", str(tmp_path / "out"), "--gin_module=own_training_code"]
    assert main.main(command) == 75
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/result.json"))
    monkeypatch.undo()
    assert main.main(command) == 0
    assert len(list((tmp_path / "out").glob("*/result.json"))) == 2
