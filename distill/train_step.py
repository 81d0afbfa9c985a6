"""The training step: one pure function from state and batch to state and metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from distill import choices, partitioning
from distill.losses import TokenStats, TwoTaskLoss, task_token_weights, weighted_cross_entropy
from distill.network import T5Config, Transformer
from distill.optimizers import Optimizer
from distill.parameters import output_kernel, param_logical_axes
from tasks import task_ids

Params = Any
Arrays = Mapping[str, jax.Array]
# A metric is (sum, count), both float32 scalars: means then merge over steps, micro-batches and devices.
Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


class TrainState(struct.PyTreeNode):
    """Everything a step reads and writes.

    Attributes:
      step: int32 scalar, updates made.
      params: the student's parameters, float32.
      opt_state: the optimizer's.
      ema_params: an exponential moving average of ``params``, or None where it is off.
    """

    step: Any  # not Int[Array, ""]: trees of shapes and of shardings have the same form
    params: Params
    opt_state: Any
    ema_params: Params | None = None

    @property
    def eval_params(self) -> Params:
        """The averaged parameters where there are any, else the parameters."""
        return self.params if self.ema_params is None else self.ema_params


def init_state(params: Params, optimizer: Optimizer, *, ema: bool = False) -> TrainState:
    """A state at step 0."""
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.transform.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
    )


def make_train_step(
    config: T5Config,
    loss: TwoTaskLoss,
    optimizer: Optimizer,
    *,
    num_microbatches: int = 1,
    ema_decay: float | None = None,
    chunk_tokens: int = 0,
    param_gather: str = "layer",
    sequence_parallel: bool = False,
) -> Callable[[TrainState, Arrays, jax.Array], tuple[TrainState, Metrics]]:
    """Returns ``step(state, batch, rng) -> (state, metrics)``, to be jitted by the caller.

    Args:
      config: the student.
      loss: the two tasks' weights; they are taken from the whole batch, before it is cut into micro-batches.
      optimizer: transforms the summed gradient.
      num_microbatches: cuts of the batch whose gradients are summed one after the other.
      ema_decay: decay of the parameters' moving average, or None.
      chunk_tokens: see :func:`distill.losses.weighted_cross_entropy`.
      param_gather: how layers come by parameters that lie split over ``fsdp``. ``layer``: each layer gathers its own,
        forward and backward. ``step``: all are gathered once, before the layers, in the compute dtype. ``decoder``: so are
        the decoder's; the encoder's copies would lie idle while memory is fullest, so its layers gather their own.
        Gradients meet split over ``fsdp``, each once, in any case.
      sequence_parallel: whether positions between the blocks lie over ``model``: :func:`partitioning.sequence_parallel`.

    Raises:
      ValueError: an unknown ``param_gather``.
    """
    choices.check("param_gather", param_gather, partitioning.PARAM_GATHERS)
    model = Transformer(config)
    axes = None if param_gather == "layer" else param_logical_axes(config)

    def step(state: TrainState, batch: Arrays, rng: jax.Array) -> tuple[TrainState, Metrics]:
        coefficients = loss.coefficients(state.step)
        weights = task_token_weights(
            batch["decoder_loss_weights"],
            batch["decoder_task_ids"],
            coefficients,
            loss.normalizer,
            batch.get("decoder_segment_ids"),
        )

        rules = nn.get_logical_axis_rules()

        def loss_fn(params, cut, rngs):
            with nn.logical_axis_rules(partitioning.sequence_parallel(rules) if sequence_parallel else rules):
                hidden = model.apply(
                    {"params": params},
                    *model_inputs(cut),
                    decoder_cross_segment_ids=cut.get("decoder_cross_segment_ids"),
                    deterministic=False,
                    rngs=rngs,
                    method=Transformer.hidden,
                )
            value, stats = weighted_cross_entropy(
                hidden,
                output_kernel(params, config),
                cut["decoder_target_tokens"],
                cut["token_weights"],
                loss.z_loss,
                loss.label_smoothing,
                chunk_tokens,
            )
            return value, token_metrics(cut, stats)

        def value_and_gradients(*args):
            result, gradients = jax.value_and_grad(loss_fn, has_aux=True)(*args)
            return result, jax.tree.map(partitioning.split, gradients, axes) if axes else gradients

        params = compute_params(state.params, config)
        if axes:
            params = gathered_params(params, axes, param_gather)
        dropout = jax.random.fold_in(rng, state.step)
        (value, metrics), gradients = _accumulate(
            value_and_gradients,
            params,
            {**batch, "token_weights": weights},
            dropout,
            num_microbatches,
        )
        gradients = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradients)
        # Optax mixes int32 counts with floats; stricter settings of the caller end at its door.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, opt_state = optimizer.transform.update(gradients, state.opt_state, state.params)
            learning_rate = jnp.asarray(optimizer.learning_rate(state.step), jnp.float32)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema_decay is not None:
            ema_params = optax.incremental_update(params, ema_params, 1.0 - ema_decay)
        one = jnp.float32(1.0)
        metrics["loss"] = (value, one)
        metrics["grad_norm"] = (optax.tree.norm(gradients), one)
        metrics["learning_rate"] = (learning_rate, one)
        metrics["effective_lambda"] = effective_lambda(weights, batch["decoder_task_ids"])
        return TrainState(state.step + 1, params, opt_state, ema_params), metrics

    return step


def compute_params(params: Params, config: T5Config) -> Params:
    """``params`` as a step differentiates them: kernels in the compute dtype, which the layers would cast them to anyway.

    Cast once, before the layers, kernels are half the bytes to gather and their gradients half the bytes to keep and to
    reduce. Those of the token table, the biases and the norms stay float32. A stack of layers has them outermost: see
    :func:`distill.partitioning.layers_outermost`.
    """
    if config.dtype == "float32":
        return params

    def cast(path, leaf, axes):
        return partitioning.layers_outermost(leaf.astype(config.dtype), axes) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(cast, params, param_logical_axes(config))


def gathered_params(params: Params, logical_axes: Params, param_gather: str) -> Params:
    """``params`` with the stacks that ``param_gather`` names whole over ``fsdp``, but for what has a ``vocab`` axis.

    Of the token table few rows are read: looked up split, it costs an exchange of activations (see
    :func:`distill.lookup.lookup`). The output kernel is laid out by the loss, which may want it split.
    """

    def place(param, axes):
        return param if "vocab" in axes else partitioning.gathered(param, axes)

    stacks = partitioning.PARAM_GATHERS[param_gather]
    return {**params, **{stack: jax.tree.map(place, params[stack], logical_axes[stack]) for stack in stacks}}


def model_inputs(batch: Arrays) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """The network's positional arguments: encoder and decoder tokens, then segment ids (None when unpacked)."""
    return (
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        batch.get("encoder_segment_ids"),
        batch.get("decoder_segment_ids"),
    )


def token_metrics(batch: Arrays, stats: TokenStats) -> Metrics:
    """Unweighted per-task loss and token accuracy, and token counts, of one (micro-)batch."""
    metrics: Metrics = {}
    for task in (task_ids.LABEL, task_ids.RATIONALE):
        name = task_ids.NAMES[task]
        mask = (batch["decoder_task_ids"] == task) & (batch["decoder_loss_weights"] > 0.0)
        count = mask.sum(dtype=jnp.float32)
        metrics[f"loss/{name}"] = (jnp.sum(stats.cross_entropy, where=mask), count)
        metrics[f"token_accuracy/{name}"] = (jnp.sum(stats.correct & mask, dtype=jnp.float32), count)
        metrics[f"tokens/{name}"] = (count, jnp.float32(0.0))
    encoder = jnp.sum(batch["encoder_input_tokens"] != 0, dtype=jnp.float32)
    metrics["tokens/encoder"] = (encoder, jnp.float32(0.0))
    return metrics


def effective_lambda(weights: Float[Array, "batch length"], ids: Int[Array, "batch length"]) -> tuple:
    """The rationale tokens' total weight over the label tokens': what λ, rates and normaliser really amount to."""
    rationale = jnp.sum(weights, where=ids == task_ids.RATIONALE)
    label = jnp.sum(weights, where=ids == task_ids.LABEL)
    return rationale, label


def _accumulate(value_and_grad, params, batch, rng, num_microbatches):
    """Sums value, metrics and gradients over micro-batches. Row r goes to cut r mod k, so a sharded batch stays put."""
    if num_microbatches == 1:
        return value_and_grad(params, batch, {"dropout": rng})

    def cut(x):
        return jnp.moveaxis(x.reshape(x.shape[0] // num_microbatches, num_microbatches, *x.shape[1:]), 1, 0)

    def body(total, xs):
        index, microbatch = xs
        part = value_and_grad(params, microbatch, {"dropout": jax.random.fold_in(rng, index)})
        return jax.tree.map(lambda all_before, one: all_before + one.astype(jnp.float32), total, part), None

    cuts = jax.tree.map(cut, batch)
    one_cut = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), cuts)
    shapes = jax.eval_shape(value_and_grad, params, one_cut, {"dropout": rng})
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)
    total, _ = jax.lax.scan(body, zeros, (jnp.arange(num_microbatches), cuts))
    return total


def summarize(metrics: list[Metrics]) -> dict[str, float]:
    """Host numbers from the metrics of several steps: means where there is a count, totals where there is none."""
    if not metrics:
        return {}
    host = jax.device_get(metrics)
    out = {}
    for name in host[0]:
        total = sum(float(m[name][0]) for m in host)
        count = sum(float(m[name][1]) for m in host)
        if name.startswith("tokens/"):
            out[name] = total
        elif count > 0.0:
            out[name] = total / count
    return out
