"""Joint seeds: their initial states, user code per seed, and a signal."""

import importlib
import json

import jax
import numpy as np
import pytest

from distill.checkpoints import conversion
from distill.checkpoints.weights import flatten
from distill.cli import main
from distill.training import joint_seeds, optimizers, train
from distill.training.state import random_state
from tests_support import write_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
MODULE = """
import json
from distill.training.callbacks import Callback, Stop

STOPS = None  # the seed that ends at its first log line

class Notes(Callback):
    def __init__(self, file="notes.jsonl"):
        self.file = file

    def note(self, at, **what):
        with (at.directory / self.file).open("a") as file:
            file.write(json.dumps({"seed": at.seed, "step": at.step, **what}) + chr(10))

    def on_log(self, at, metrics):
        self.note(at, event="log", loss=metrics["loss"])
        if at.seed == STOPS:
            raise Stop("it is flat")

    def on_evaluation(self, at, split, evaluation):
        self.note(at, event=split, rows=len(evaluation.rows), length=evaluation.metrics["length"])

def length(targets, predictions):
    assert all(target.text for target in targets)
    return {"length": sum(map(len, predictions)) / len(predictions)}
"""


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


def test_a_signal_stops_joint_seeds_and_their_callbacks_and_metrics_from_gin(project, tmp_path, monkeypatch, capsys):
    command = ["sweep", str(project), "--directory", str(tmp_path / "out")]
    assert main.main(command) == 2
    assert "imports own_training_code, which is not trusted; allow it with --gin_module" in capsys.readouterr().err
    command.append("--gin_module=own_training_code")
    with monkeypatch.context() as patch:
        patch.setattr(train.StopRequest, "requested", lambda self, step: setattr(self, "name", "SIGTERM") or True)
        assert main.main(command) == 75
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/result.json"))
    for notes in (tmp_path / "out").glob("*/mine.jsonl"):
        notes.unlink()
    assert main.main(command) == 0
    assert len(list((tmp_path / "out").glob("*/result.json"))) == 2
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


def test_a_callback_ends_one_of_joint_seeds(project, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.import_module("own_training_code"), "STOPS", 0)
    command = ["sweep", str(project), "--directory", str(tmp_path / "out"), "--gin_module=own_training_code"]
    assert main.main(command) == 0
    folders = [tmp_path / "out" / f"RANDOM_SEED-{seed}" for seed in (0, 1)]
    assert f"{folders[0]}: stopped after step 1 by Notes: it is flat" in capsys.readouterr().err
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert [(one["stopped"], one["step"], one["best_step"]) for one in results] == [("early", 1, 1), (None, 2, 2)]
    notes = [json.loads(line) for line in (folders[0] / "mine.jsonl").read_text().splitlines()]
    assert [(note["event"], note["step"]) for note in notes] == [("log", 1), ("validation", 1), ("test", 1)]


def test_initial_states_are_those_of_the_single_seeds(arguments):
    model, optimizer = arguments["model"], arguments["optimizer"]
    stacked = joint_seeds._initial_state(model, optimizer, [3, 8], None, ema=True)
    for number, seed in enumerate((3, 8)):
        alone = jax.jit(lambda key: random_state(model, optimizer, key, ema=True))(jax.random.key(seed))
        assert alone.ema_params is not None
        for joint, single in zip(jax.tree.leaves(stacked), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(joint[number], single, rtol=1e-6, atol=1e-7)


def test_all_seeds_start_from_one_checkpoint(arguments, tmp_path):
    model = arguments["model"]
    made = jax.jit(lambda key: random_state(model, optimizers.adamw(1e-3), key))(jax.random.key(0))
    params = jax.tree.map(np.asarray, made.params)
    conversion.write_model_dir(flatten(params).__getitem__, model, tmp_path / "start", 4)
    stacked = joint_seeds._initial_state(model, arguments["optimizer"], [3, 8], str(tmp_path / "start"), ema=False)
    for number in (0, 1):
        got = jax.tree.map(lambda leaf, at=number: np.asarray(leaf[at]), stacked.params)
        jax.tree.map(np.testing.assert_array_equal, got, params)
    assert stacked.ema_params is None and stacked.step.tolist() == [0, 0]
