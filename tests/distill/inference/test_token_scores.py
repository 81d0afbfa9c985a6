"""Validation of pretraining against an independent computation; a student that is pretrained, then distilled from there."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from distill.checkpoints.manager import restore_student
from distill.inference import token_scores
from distill.inference.decoder import DecodeConfig, Decoder
from distill.inference.evaluate import Evaluator
from distill.model.network import ModelInputs, T5Config, Transformer
from distill.sharding import partitioning
from distill.tasks import corpus, jsonl, metrics, registration
from distill.training import optimizers
from distill.training.losses import TwoTaskLoss
from distill.training.train import DataConfig, LoopConfig, ValidationConfig, train

MODEL = T5Config(
    vocab_size=384, embed_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1, num_decoder_layers=1
)
LENGTHS = {"inputs": 32, "targets": 9}


@pytest.fixture
def names(tmp_path):
    (tmp_path / "book.txt").write_text("".join("The cat sat on the mat, and the dog sat.\n\n" for _ in range(60)))
    (tmp_path / "held.txt").write_text("The dog sat on the mat, and the cat sat.\n" * 10)
    files = {"train": str(tmp_path / "book.txt"), "validation": str(tmp_path / "held.txt")}
    return registration.register(corpus.dataset(files, feature_lengths=LENGTHS), "bytes")


def test_scores_are_those_of_the_full_logits(names):
    mesh = partitioning.MeshConfig(1, 1, 1).build(jax.devices()[:1])
    evaluator = token_scores.evaluator(names.spans, "validation", Decoder(MODEL, mesh, DecodeConfig(batch_size=5)))
    assert isinstance(evaluator, token_scores.TokenEvaluator) and len(evaluator) % 5 != 0  # the last batch is padded
    again = token_scores.TokenEvaluator(names.spans, "validation", None)
    assert (again._input_tokens == evaluator._input_tokens).all() and (
        again._target_tokens == evaluator._target_tokens
    ).all()
    targets, inputs = evaluator._target_tokens, evaluator._input_tokens
    shifted = np.concatenate([np.zeros((len(targets), 1), np.int32), targets[:, :-1]], axis=1)
    network = Transformer(MODEL)
    params = nn.unbox(jax.jit(network.init)(jax.random.key(0), ModelInputs(inputs, shifted))["params"])
    with jax.set_mesh(mesh):
        logits = np.asarray(jax.jit(network.apply)({"params": params}, ModelInputs(inputs, shifted)), np.float64)
        found = evaluator(params)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_probs, targets[..., None], axis=-1)
    assert found.metrics["loss"] == pytest.approx(-chosen.mean(), rel=1e-5)
    assert found.metrics["accuracy"] == pytest.approx((logits.argmax(-1) == targets).mean(), abs=1e-6)
    assert found.rows == []
    with pytest.raises(
        ValueError, match=r"no metric 'acuracy'; it has \['accuracy', 'loss'\]; did you mean 'accuracy'"
    ):
        evaluator.check_metric("acuracy")


def test_other_tasks_are_decoded_and_short_text_is_refused(names, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"input": "q", "label": "a"}) + "\n")
    label = registration.register(
        jsonl.dataset({"train": tmp_path / "rows.jsonl"}, validation_fraction=0.0), "bytes"
    ).label
    assert type(token_scores.evaluator(label, "train", None)) is Evaluator
    (tmp_path / "held.txt").write_text("short")
    with pytest.raises(ValueError, match="text of split 'validation' is shorter than one window of 34 tokens"):
        files = {"train": str(tmp_path / "book.txt"), "validation": str(tmp_path / "held.txt")}
        again = registration.register(corpus.dataset(files, name="again", feature_lengths=LENGTHS), "bytes")
        token_scores.evaluator(again.spans, "validation", None)


def settings(names):
    """Arguments of a pretraining of 40 steps that selects by the loss."""
    return {
        "model": MODEL,
        "data": DataConfig(names.spans, LENGTHS, batch_size=8),
        "loss": TwoTaskLoss(),
        "optimizer": optimizers.adamw(1e-2),
        "loop": LoopConfig(train_steps=40, log_period=20),
        "validation": ValidationConfig(
            names.spans, period=20, test_split=None, metric="loss", decode=DecodeConfig(batch_size=8)
        ),
        "checkpoints": dataclasses.replace(train.__kwdefaults__["checkpoints"], verify=False),
    }


def test_the_lowest_loss_selects_and_a_run_that_kept_the_highest_is_mended_and_is_a_start(
    names, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "higher_is_better", lambda metric: True)
        assert train(str(tmp_path / "run"), **settings(names)).best_step == 20
    (tmp_path / "run" / "result.json").unlink()
    result = train(str(tmp_path / "run"), **settings(names))
    assert "WARNING removed best/20: of its metric it has the highest value, which is" in capsys.readouterr().err
    scores = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in scores]
    assert (result.best_step, result.best) == (40, min(losses)) and losses[1] < losses[0] < np.log(384)
    assert scores[-1]["accuracy"] > 0.2
    assert [path.name for path in (tmp_path / "run" / "best").iterdir()] == ["40"]
    selection = json.loads((tmp_path / "run" / "record.json").read_text())["selection"]
    assert (selection["metric"], selection["step"], selection["higher_is_better"]) == ("loss", 40, False)
    # A later run starts from the pretrained student.
    rows = [{"input": f"cat {number}", "label": "mat", "rationale": "it sat"} for number in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": str(tmp_path / "rows.jsonl"), "validation": str(tmp_path / "rows.jsonl")}
    paired = registration.register(jsonl.dataset(files, name="rows"), "bytes").paired
    given = settings(names) | {
        "data": DataConfig(paired, {"inputs": 32, "targets": 16}, batch_size=8),
        "optimizer": optimizers.adamw(1e-9),
        "loop": LoopConfig(train_steps=1),
        "validation": None,
    }
    train(str(tmp_path / "distilled"), **given, initial_checkpoint_path=str(tmp_path / "run"), quiet=True)
    mesh = partitioning.MeshConfig(1, 1, 1).build(jax.devices()[:1])
    with jax.set_mesh(mesh):
        start, end = (
            restore_student(str(tmp_path / name), MODEL, mesh, partitioning.DEFAULT_RULES)[1]
            for name in ("run", "distilled")
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), start, end)
