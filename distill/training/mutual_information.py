"""A term that ties the label's prediction to the rationale's (Chen et al. 2024, arXiv 2403.03348).

The paper maximises the mutual information of the two tasks' representations. Its published code adds ``β`` times the
cross-entropy between the tasks' predicted words, where a task's prediction is, for every word of the vocabulary, the
largest probability over the task's positions. The label's prediction is the target, and gets no gradient. This is that
term, with one difference: the code takes the maximum over padding too, and here it is over the tokens that are trained on.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from distill.tasks import task_ids

PAIRS = "decoder_cross_segment_ids"


def pair_weights(batch: Mapping[str, jax.Array]) -> Float[Array, "batch pairs"]:
    """Returns ``1 / n`` for each of the ``n`` examples of the global batch that have both tasks, 0 elsewhere.

    Args:
      batch: features of a shared encoder pass, see :func:`distill.data.packing.fill`. Example ``g`` of a window is at
        index ``g - 1``; a window of ``length`` target positions has at most ``length // 2`` examples with both tasks.

    Raises:
      ValueError: the label and the rationale of an example are not in one window.
    """
    if PAIRS not in batch:
        raise ValueError(
            f"mutual_information compares both targets of an input in one window, and the batch has no {PAIRS!r}: train "
            "with FORM=shared and EVAL_FORM=shared_label (gin/runs/mutual_information.gin)"
        )
    number = batch[PAIRS].shape[1] // 2
    is_pair = jnp.ones((batch[PAIRS].shape[0], number), bool)
    for task in (task_ids.LABEL, task_ids.RATIONALE):
        is_pair &= _largest(jnp.ones((*batch[PAIRS].shape, 1), jnp.float32), batch, task)[..., 0] > 0.0
    weights = is_pair.astype(jnp.float32)
    return weights / jnp.maximum(weights.sum(), 1.0)


def mutual_information(
    hidden: Any,
    kernel: Any,
    batch: Mapping[str, jax.Array],
    weights: Float[Array, "batch pairs"],
    logit_cap: float | None = None,
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
    """Returns ``Σ weight · CE``, and the unweighted (sum, count) over the examples with both tasks.

    ``CE = - Σ_v p_v · log softmax(r)_v``, where ``p_v`` and ``r_v`` are the largest probabilities of word ``v`` over the
    positions of the label and of the rationale. All logits of the batch are materialised.

    Args:
      hidden: decoder output, [batch, length, embed].
      kernel: the output projection, [embed, vocab].
      batch: features of these rows.
      weights: of these rows, from :func:`pair_weights` of the global batch.
      logit_cap: the soft cap of the logits, see :func:`distill.sharding.cross_entropy.weighted_cross_entropy`.
    """
    logits = jnp.einsum("bld,dv->blv", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
    if logit_cap is not None:
        logits = jnp.tanh(logits / logit_cap) * logit_cap
    probabilities = jax.nn.softmax(logits, axis=-1)
    label = jax.lax.stop_gradient(_largest(probabilities, batch, task_ids.LABEL))
    rationale = _largest(probabilities, batch, task_ids.RATIONALE)
    cross_entropy = -jnp.sum(label * jax.nn.log_softmax(rationale, axis=-1), axis=-1)
    is_pair = weights > 0.0
    total = jnp.sum(cross_entropy, where=is_pair)
    return jnp.sum(weights * cross_entropy), (total, is_pair.sum(dtype=jnp.float32))


def _largest(
    values: Float[Array, "batch length words"], batch: Mapping[str, jax.Array], task: int
) -> Float[Array, "batch pairs words"]:
    """The largest value over a task's trained tokens of each example; 0 for an example without any."""
    length = values.shape[1]
    trained = (batch["decoder_task_ids"] == task) & (batch["decoder_loss_weights"] > 0.0)
    pairs: Int[Array, "batch length"] = jnp.where(trained, batch[PAIRS], 0)

    def of_row(row: jax.Array, ids: jax.Array) -> jax.Array:
        return jax.ops.segment_max(row, ids, num_segments=length // 2 + 1)[1:]

    found = jax.vmap(of_row)(values, pairs)
    return jnp.where(found > 0.0, found, 0.0)  # an empty segment has the maximum -∞
