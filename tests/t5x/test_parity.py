"""The two engines give the same numbers: logits, loss, metrics and gradients, with T5X's loss as a third opinion."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from t5x import losses as t5x_losses

from distill.model.network import ModelInputs, Transformer
from distill.t5x.model import TOKEN_WEIGHTS, weigh
from distill.training.losses import NORMALIZERS, TwoTaskLoss
from distill.training.optimizers import Optimizer
from distill.training.state import init_state
from distill.training.step import make_train_step
from tests.t5x import engines, rounding

TIED = dataclasses.replace(
    engines.CONFIG, logits_via_embedding=True, mlp_activations=("relu",), num_encoder_layers=1, num_decoder_layers=1
)
CONFIGS = {"t5_1_1": engines.CONFIG, "t5_1_0": TIED, "scalable": engines.SCANNED}
LOSSES = [TwoTaskLoss(lam=0.3, normalizer=name) for name in NORMALIZERS]
LOSSES += [TwoTaskLoss(alpha=0.7, z_loss=1e-3, label_smoothing=0.1)]

KEEP_GRADIENTS = Optimizer(
    optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradients, state, params=None: (jax.tree.map(jnp.zeros_like, gradients), gradients),
    ),
    lambda step: jnp.float32(0.0),
)


def gradients_close(got, wanted, batch, config=engines.CONFIG):
    rows, _ = batch["decoder_target_tokens"].shape
    rounding.assert_close(got, wanted, rounding.gradient_roundings(config, rows, rounding.lengths_of(batch)))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits(name, packed):
    config = CONFIGS[name]
    params, batch = engines.params_of(config), engines.on_device(engines.batches(1, packed)[0])
    theirs = jax.jit(engines.two_task_model(config)._compute_logits)(engines.to_t5x(params, config), batch)
    ours = jax.jit(lambda p: Transformer(config).apply({"params": p}, ModelInputs.of(batch)))(params)
    also_ours = jax.jit(engines.project_model(config)._compute_logits)(params, batch)
    real = np.asarray(batch["decoder_target_tokens"] > 0)
    roundings = rounding.logits_roundings(config, rounding.lengths_of(batch))
    rounding.assert_close(np.asarray(ours)[real], np.asarray(theirs)[real], roundings)
    np.testing.assert_array_equal(ours, also_ours)


@pytest.mark.parametrize(
    ("name", "loss"),
    [("t5_1_1", loss) for loss in LOSSES] + [("t5_1_0", LOSSES[3]), ("scalable", LOSSES[0])],
    ids=lambda value: value if isinstance(value, str) else f"{value.normalizer}-{value.z_loss}",
)
def test_loss_metrics_and_gradients(name, loss):
    config, packed = CONFIGS[name], loss.normalizer != "all_tokens"
    params, batch = engines.params_of(config), engines.on_device(engines.batches(1, packed)[0])
    step = jax.jit(make_train_step(config, loss, KEEP_GRADIENTS))
    state, wanted = step(init_state(params, KEEP_GRADIENTS), batch, jax.random.key(0))
    weighed = weigh(batch, loss, jnp.int32(0))
    models = [(engines.two_task_model(config, loss), engines.to_t5x)]
    if name == "t5_1_0":
        models.append((engines.project_model(config, loss), lambda params, config: params))
    for model, fit in models:
        function = jax.jit(
            jax.value_and_grad(
                lambda p, model=model, fit=fit: model.loss_fn(fit(p, config), weighed, None), has_aux=True
            )
        )
        (value, metrics), gradients = function(params)
        np.testing.assert_allclose(value, wanted["loss"][0], rtol=1e-5)
        for task in ("label", "rationale"):
            for what in ("loss", "token_accuracy"):
                total, count = wanted[f"{what}/{task}"]
                np.testing.assert_allclose(metrics[f"{what}/{task}"].total, total, rtol=1e-5)
                assert float(metrics[f"{what}/{task}"].count) == float(count)
            assert float(metrics[f"tokens/{task}"].total) == float(wanted[f"tokens/{task}"][0]) > 0
        rationale, label = wanted["effective_lambda"]
        sums = rounding.tolerance(batch["decoder_target_tokens"].size)
        np.testing.assert_allclose(metrics["effective_lambda"].compute(), rationale / label, rtol=sums)
        gradients_close(gradients, state.opt_state, batch, config)


@pytest.mark.parametrize("loss", LOSSES[2:], ids=lambda loss: f"{loss.normalizer}-{loss.z_loss}")
def test_the_loss_is_t5xs_cross_entropy_under_our_weights(loss):
    params, batch = engines.params_of(), engines.on_device(engines.batches(1, True)[0])
    batch = weigh(batch, loss, jnp.int32(0))
    model = engines.two_task_model(loss=loss)

    def theirs(params):
        return t5x_losses.compute_weighted_cross_entropy(
            model._compute_logits(params, batch),
            targets=batch["decoder_target_tokens"],
            weights=batch[TOKEN_WEIGHTS],
            label_smoothing=loss.label_smoothing,
            z_loss=loss.z_loss,
        )[0]

    wanted, wanted_gradients = jax.jit(jax.value_and_grad(theirs))(params)
    (value, _), gradients = jax.jit(jax.value_and_grad(lambda p: model.loss_fn(p, batch, None), has_aux=True))(params)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    gradients_close(gradients, wanted_gradients, batch)


def test_all_tokens_is_t5xs_own_loss():
    params, batch = engines.params_of(), engines.on_device(engines.batches(1, True)[0])
    theirs, _ = engines.plain_t5x_model(
        loss_normalizing_factor=t5x_losses.SpecialLossNormalizingFactor.NUM_REAL_TARGET_TOKENS
    ).loss_fn(params, batch, None)
    ours, _ = engines.two_task_model(loss=TwoTaskLoss(normalizer="all_tokens")).loss_fn(params, batch, None)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_chunks_change_nothing_and_no_logits_are_made():
    params, batch = engines.params_of(), engines.on_device(engines.batches(1, True)[0])

    def run(chunk_tokens):
        model = engines.two_task_model(chunk_tokens=chunk_tokens)
        return jax.value_and_grad(lambda p: model.loss_fn(p, batch, None)[0])

    whole, chunked = jax.jit(run(0))(params), jax.jit(run(32))(params)
    np.testing.assert_allclose(chunked[0], whole[0], rtol=rounding.tolerance(batch["decoder_target_tokens"].size))
    gradients_close(chunked[1], whole[1], batch)
    text = jax.jit(run(32)).lower(params).as_text()
    rows, length = batch["decoder_target_tokens"].shape
    # (T5X looks up embeddings with a one-hot matrix of that shape; no product has it. One CPU gathers positions first.)
    logits = rf"dot_general.*-> tensor<(1x{rows * length}|{rows}x{length})x{engines.VOCAB}x"
    assert not re.search(logits, text)
    assert re.search(logits, jax.jit(run(0)).lower(params).as_text())


def test_mistakes_raise():
    batch = engines.on_device(engines.batches(1, True)[0])
    model = engines.two_task_model(loss=TwoTaskLoss(lam=lambda step: jnp.float32(1.0)))
    with pytest.raises(ValueError, match="TwoTaskTrainer"):
        model.loss_fn(engines.params_of(), batch, None)
    with pytest.raises(ValueError, match="prompt_with_targets"):
        engines.project_model().predict_batch_with_aux(engines.params_of(), batch, prompt_with_targets=True)
    with pytest.raises(ValueError, match=r"no mutual-information term, which needs FORM=shared; got 0\.1"):
        engines.two_task_model(loss=TwoTaskLoss(mutual_information=0.1))
