"""Totals of a run: computed independently from the batches, exact over a kill, and without further transfers."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from distill.tasks import task_ids
from distill.training import accounting, record, timing, train
from distill.training import loop as training_loop
from distill.training.config import Progress
from distill.training.losses import TwoTaskLoss

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def update(rationale, label, tokens=(10.0, 5.0)):
    one = {"tokens/encoder": (tokens[0], 0.0), "tokens/decoder": (tokens[1], 0.0)}
    return one | {"effective_lambda": (np.float32(rationale), np.float32(label))}


def training(progress, tmp_path, **given):
    attempts = timing.Attempts(epath.Path(tmp_path), 0, started=0.0)
    defaults = {
        "steps": 3,
        "parameters": 7,
        "lanes": 1,
        "devices": 1,
        "costs": timing.StepCosts(),
        "attempts": attempts,
    }
    return accounting.training(progress, **(defaults | given))


def test_lambda_is_the_mean_over_updates_and_exists_without_labels_in_a_batch(tmp_path):
    progress = Progress(phases={"step": 2.0})
    accounting.add(progress, [update(1.0, 1.0), update(3.0, 1.0)], 30, 6e9)
    accounting.add(progress, [update(2.0, 0.0)], 30, 6e9)
    found = training(progress, tmp_path, costs=timing.StepCosts(6e9, 18e9))
    assert (found.lambda_, found.lambda_of_totals) == (2.0, 3.0)
    assert (found.tokens, found.padding_share, found.flops, found.flops_per_step) == (45, 0.5, 18e9, 6e9)
    # The first of the three updates was made while the step was compiled: 30 tokens and two thirds of the operations.
    assert found.mfu == pytest.approx(1 / 3)
    assert found.tokens_per_second_per_device == pytest.approx(15.0)
    assert training(progress, tmp_path / "other", lanes=2, devices=4).tokens_per_second_per_device == pytest.approx(
        3.75
    )
    nothing = training(Progress(), tmp_path, steps=0)
    assert (nothing.lambda_, nothing.flops, nothing.mfu, nothing.padding_share) == (None, None, None, 0.0)


def test_a_run_of_one_update_has_no_speed(tmp_path):
    progress = Progress(phases={"step": 0.001})
    accounting.add(progress, [update(1.0, 1.0)], 30, 6e9)
    found = training(progress, tmp_path, steps=1, costs=timing.StepCosts(6e9, 18e9))
    assert (found.tokens, found.tokens_per_second_per_device, found.mfu) == (15, None, None)


def test_steps_that_an_earlier_version_did_not_count_give_no_figure(tmp_path):
    progress = Progress()
    accounting.add(progress, [update(1.0, 1.0)], 30, 6e9)
    found = training(progress, tmp_path, steps=100)
    assert (found.lambda_, found.flops, found.tokens_per_second_per_device) == (None, None, None)


class Killed(BaseException):
    """Simulates a process that ends here: no code after it runs."""


def kept(directory):
    found = record.read(directory)
    names = ("steps", "examples", "tokens", "padding_share", "lambda_", "lambda_of_totals", "flops", "parameters")
    return found, {name: getattr(found.training, name) for name in names}


def test_a_run_that_was_killed_leaves_the_record_of_one_that_was_not(tmp_path, arguments, monkeypatch):
    """λ, tokens and FLOPs are also those that the batches themselves give."""
    arguments["loss"] = TwoTaskLoss(lam=0.5, normalizer="all_tokens")
    arguments["loop"] = dataclasses.replace(arguments["loop"], log_period=3)
    arguments["cost_model"] = lambda compiled, devices: timing.StepCosts(compiled.cost_analysis()["flops"] * devices)
    result = train.train(str(tmp_path / "whole"), **arguments, quiet=True)
    whole, figures = kept(tmp_path / "whole")

    batches = arguments["data"].stream(3)
    lambdas, tokens, positions = [], 0, 0
    for _, batch in zip(range(8), batches):
        ids, weights = batch.arrays["decoder_task_ids"], batch.arrays["decoder_loss_weights"]
        label, rationale = (weights[ids == task].sum() for task in (task_ids.LABEL, task_ids.RATIONALE))
        lambdas.append(0.5 * rationale / label)
        for name in ("encoder_input_tokens", "decoder_target_tokens"):
            tokens += int((batch.arrays[name] != 0).sum())
            positions += batch.arrays[name].size
    assert figures["lambda_"] == pytest.approx(np.mean(lambdas), rel=1e-5)
    assert figures["tokens"] == tokens
    assert figures["padding_share"] == pytest.approx(1 - tokens / positions)
    assert figures["flops"] > 8 * 6 * tokens / 8 * 1000  # far more than 6 · parameters in blocks · tokens
    assert (figures["steps"], figures["parameters"], whole.training.attempts) == (8, 18_672, 1)
    assert whole.selection.split == "validation"
    assert (whole.selection.step, whole.selection.value) == (result.best_step, result.best)
    assert whole.test == result.test
    written = json.loads((tmp_path / "whole/result.json").read_text())
    assert written["performance"] == whole.training.to_json()
    assert written["selection"]["split"] == "validation"
    assert sum(whole.training.phases.values()) == pytest.approx(whole.training.seconds)
    assert 0.0 < whole.training.goodput <= 1.0

    saved = training_loop.Loop._log

    def kill(self, number, lane, *rest):
        saved(self, number, lane, *rest)
        if lane.step == 6:
            lane.saver.wait()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training_loop.Loop, "_log", kill)
        with pytest.raises(Killed):
            train.train(str(tmp_path / "killed"), **arguments, quiet=True)
    assert not (tmp_path / "killed/record.json").exists()
    train.train(str(tmp_path / "killed"), **arguments, quiet=True)
    again, same = kept(tmp_path / "killed")
    assert same == figures
    assert again.data == whole.data
    assert (again.training.attempts, again.training.lost_steps) == (2, 2)  # steps 5 and 6 were made twice
    assert again.training.goodput < again.training.phases["step"] / again.training.seconds
    for name in ("validation", "test"):
        texts = [(tmp_path / run / f"predictions/{name}.jsonl").read_text() for run in ("whole", "killed")]
        assert texts[0] == texts[1]
        rows = [json.loads(line) for line in texts[0].splitlines()]
        assert len(rows) == whole.data[name].rows
        assert set(rows[0]) >= {"id", "target", "prediction", "correct", "input", "rationale", "teacher"}
        accuracy = {"validation": whole.validation, "test": whole.test}[name]["accuracy"]
        assert np.mean([row["correct"] for row in rows]) == pytest.approx(accuracy)


def test_nothing_is_fetched_between_log_lines(tmp_path, arguments, monkeypatch):
    """Measuring adds no transfer and no wait: the metrics are fetched at log lines only.

    The numbers that show whether an update is finite are read two updates later, when the device has them.
    """
    fetched, get = [], jax.device_get

    def noting(tree):
        leaves = jax.tree.leaves(tree)
        if any(isinstance(leaf, jax.Array) for leaf in leaves):
            fetched.append(len(leaves))
        return get(tree)

    monkeypatch.setattr(jax, "device_get", noting)
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=12, log_period=6)
    arguments |= {"validation": None, "checkpoints": dataclasses.replace(arguments["checkpoints"], period=100)}
    train.train(str(tmp_path / "run"), **arguments, quiet=True)
    watched = 2 * 3  # sum and count of the loss, the gradient's norm and the effective λ
    whole = [number for number in fetched if number % 6 == 0 and number // 6 > watched]
    assert len(whole) == 2  # one for six updates, at steps 6 and 12
