"""The mutual-information term against PyTorch as the paper's code computes it, and against itself in other layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from distill.data.features import pack_batches
from distill.data.packing import Layout, TokenPair
from distill.model.network import T5Config
from distill.model.parameters import init_params
from distill.training import mutual_information, optimizers
from distill.training.losses import TwoTaskLoss
from distill.training.state import init_state
from distill.training.step import make_train_step, summarize

VOCAB, EMBED = 24, 8
CONFIG = T5Config(
    vocab_size=VOCAB,
    embed_dim=EMBED,
    num_heads=1,
    head_dim=8,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
ALONE, TOGETHER = Layout(8, 8, 12, packed=False, shared_encoder=True), Layout(4, 16, 28, shared_encoder=True)


def groups(number=6):
    """Examples that share an input; the third has no rationale, and the fifth no label. A target begins with a prompt."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(number):
        group = []
        for task, length in ((1, 3), (2, 6)):
            if (index, task) in ((2, 2), (4, 1)):
                continue
            targets = rng.integers(2, VOCAB, length).astype(np.int32)
            weights = np.ones(length, np.float32)
            weights[0] = 0.0
            inputs = rng.integers(2, VOCAB, 5).astype(np.int32) if not group else np.zeros(0, np.int32)
            group.append(TokenPair(inputs, targets, np.full(length, task, np.int32), weights))
        made.append(group)
    return made


def batch_of(layout):
    (batch,) = pack_batches(iter(groups()), layout)
    return {name: jnp.asarray(value) for name, value in batch.items()}


def torch_term(hidden, kernel, batch):
    """Mean over examples of ``CrossEntropyLoss(max of the rationale's softmax, max of the label's softmax)``."""
    hidden, kernel = (torch.tensor(np.array(x), requires_grad=True) for x in (hidden, kernel))
    tasks, pairs = np.array(batch["decoder_task_ids"]), np.array(batch["decoder_cross_segment_ids"])
    trained = np.array(batch["decoder_loss_weights"]) > 0
    losses = []
    for row in range(len(tasks)):
        for pair in range(1, pairs[row].max() + 1):
            places = [np.flatnonzero((pairs[row] == pair) & (tasks[row] == task) & trained[row]) for task in (1, 2)]
            if not all(len(place) for place in places):
                continue
            label, rationale = ((hidden[row, place] @ kernel).softmax(-1).max(0)[0] for place in places)
            losses.append(torch.nn.CrossEntropyLoss()(rationale[None], label.detach()[None]))
    value = torch.stack(losses).mean()
    value.backward()
    return value.item(), hidden.grad.numpy(), kernel.grad.numpy(), len(losses)


@pytest.mark.parametrize("layout", [ALONE, TOGETHER], ids=["alone", "packed"])
def test_it_is_the_papers_code_over_trained_tokens(layout):
    batch = batch_of(layout)
    rng = np.random.default_rng(1)
    hidden = jnp.asarray(rng.normal(size=(*batch["decoder_task_ids"].shape, EMBED)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(EMBED, VOCAB)).astype(np.float32))
    weights = jax.jit(mutual_information.pair_weights)(batch)
    wanted, d_hidden, d_kernel, number = torch_term(hidden, kernel, batch)
    assert number == 4 and float(weights.sum()) == pytest.approx(1.0)

    def term(hidden, kernel):
        return mutual_information.mutual_information(hidden, kernel, batch, weights)

    gradient = jax.jit(jax.value_and_grad(term, argnums=(0, 1), has_aux=True))
    (value, (total, count)), gradients = gradient(hidden, kernel)
    np.testing.assert_allclose([value, total / count], [wanted, wanted], rtol=1e-5)
    np.testing.assert_allclose(gradients[0], d_hidden, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(gradients[1], d_kernel, rtol=1e-4, atol=1e-6)


def test_a_cap_is_that_of_the_logits():
    """The term of capped logits is the term of a kernel whose product is already capped."""
    batch = batch_of(TOGETHER)
    hidden = jax.nn.one_hot(
        batch["decoder_target_tokens"], VOCAB, dtype=jnp.float32
    )  # the kernel's rows are the logits
    kernel = 3.0 * jax.random.normal(jax.random.key(0), (VOCAB, VOCAB))
    weights = mutual_information.pair_weights(batch)
    got, _ = mutual_information.mutual_information(hidden, kernel, batch, weights, 2.0)
    wanted, _ = mutual_information.mutual_information(hidden, 2.0 * jnp.tanh(kernel / 2.0), batch, weights)
    plain, _ = mutual_information.mutual_information(hidden, kernel, batch, weights)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert abs(float(got) - float(plain)) > 0.01


def test_packing_and_microbatches_change_nothing():
    optimizer = optimizers.Optimizer(optax.sgd(1.0), lambda step: 1.0)
    params = jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(0))
    found = []
    for layout, parts in ((ALONE, 1), (TOGETHER, 2)):
        loss = TwoTaskLoss(mutual_information=0.5)
        step = jax.jit(make_train_step(CONFIG, loss, optimizer, num_microbatches=parts))
        state, metrics = step(init_state(params, optimizer), batch_of(layout), jax.random.key(1))
        summary = summarize([metrics])
        both = summary["loss/label"] + summary["loss/rationale"] + 0.5 * summary["loss/mutual_information"]
        assert summary["loss"] == pytest.approx(both, rel=1e-5)
        found.append((summary["loss/mutual_information"], state.params))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(jax.tree.leaves(found[0][1]), jax.tree.leaves(found[1][1])):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)


def test_pairs_that_are_not_in_one_window_are_refused():
    (batch,) = pack_batches(iter(groups(2)), Layout(4, 16, 16))
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    with pytest.raises(ValueError, match=r"mutual_information compares both targets.*FORM=shared"):
        mutual_information.pair_weights(batch)
    with pytest.raises(ValueError, match=r"mutual_information must be a finite number ≥ 0 or None; got -1"):
        TwoTaskLoss(mutual_information=-1.0)
