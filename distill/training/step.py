"""The training step: a pure function from state and batch to state and metrics."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from distill import validation
from distill.model import lora
from distill.model.configs import NetworkConfig
from distill.model.network import ModelInputs
from distill.model.networks import final_logit_cap, network_of
from distill.model.parameters import Params, output_kernel, param_logical_axes
from distill.sharding import partitioning
from distill.sharding.cross_entropy import TokenStats, weighted_cross_entropy
from distill.sharding.dense import LORA_A, LORA_B
from distill.tasks import task_ids
from distill.training import mutual_information, uncertainty
from distill.training.losses import Coefficients, TwoTaskLoss, task_token_weights
from distill.training.optimizers import Optimizer
from distill.training.state import TrainState
from distill.training.trainable import joined

Arrays = Mapping[str, jax.Array]
# A metric is (sum, count), both float32 scalars, so means can be merged over steps, micro-batches and devices.
Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
# The same on the host: numpy scalars, or device arrays that can still be fetched.
Fetchable = Mapping[str, tuple[Any, Any]]
SKIPPED = "skipped_updates"
_TASK_LOSSES = "task losses"  # passed from micro-batches to the optimizer; not logged


def make_train_step(
    config: NetworkConfig,
    loss: TwoTaskLoss,
    optimizer: Optimizer,
    *,
    num_microbatches: int = 1,
    ema_decay: float | None = None,
    chunk_tokens: int = 0,
    param_gather: str = "layer",
    sequence_parallel: bool = False,
    skip_nonfinite: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns ``step(state, batch, rng, coefficients=None) -> (state, metrics)``, which the caller jits.

    ``coefficients`` are those of :meth:`distill.training.losses.TwoTaskLoss.constants`: as an argument, they leave the
    compiled program the same for all λ. None takes those of ``loss``.

    Args:
      config: configuration of the student.
      loss: weights of the two tasks, computed from the whole batch before it is cut into micro-batches.
      optimizer: transforms the gradient, summed over rows, devices and micro-batches, into an update. One of
        :func:`distill.training.uncertainty.learned` also gives the weights of the two tasks. Only the parameters that it
        trains (:class:`distill.training.trainable.Trainable`) have gradients.
      num_microbatches: number of cuts of the batch whose gradients are accumulated one after the other.
      ema_decay: decay of the moving average of the parameters, or None.
      chunk_tokens: see :func:`distill.sharding.cross_entropy.weighted_cross_entropy`.
      param_gather: when FSDP-sharded parameters are all-gathered. ``layer``: each layer gathers its own parameters,
        forward and backward. ``step``: all are gathered once per step, before the layers, in the compute dtype.
        ``decoder``: only the decoder's are gathered once. The encoder's copies would be unused at the point of peak
        memory, so its layers gather their own. In all cases, gradients are sharded over ``fsdp`` and reduced once per
        parameter.
      sequence_parallel: whether positions between blocks are sharded over ``model``, see
        :func:`distill.sharding.partitioning.sequence_parallel`.
      skip_nonfinite: whether an update whose loss, gradient or change of the parameters has nan or infinity is skipped, see
        :func:`skipped_if`. If False, the compiled program has no trace of it.

    Raises:
      ValueError: an unknown ``param_gather``, λ and learned weights, or patterns of trained parameters that do not fit.
    """
    weighing = isinstance(optimizer, uncertainty.WeighingOptimizer)
    if weighing and (loss.lam is not None or loss.alpha is not None):
        raise ValueError(
            f"the optimizer learns the weights of both tasks; got lam={loss.lam}, alpha={loss.alpha} as well: set "
            "LAMBDA=None and ALPHA=None, or take an optimizer without uncertainty.learned"
        )
    beta = loss.mutual_information
    validation.check("param_gather", param_gather, partitioning.PARAM_GATHERS)
    model = network_of(config)
    logit_cap = final_logit_cap(config)
    gathers = param_gather != "layer"
    trainable = optimizer.trainable
    if trainable is not None:
        trainable.check(config)

    def step(
        state: TrainState, batch: Arrays, rng: jax.Array, coefficients: Coefficients | None = None
    ) -> tuple[TrainState, Metrics]:
        if weighing:
            coefficients = uncertainty.coefficients(state.opt_state)
        elif coefficients is None:
            coefficients = loss.coefficients(state.step)
        weights = task_token_weights(
            batch["decoder_loss_weights"],
            batch["decoder_task_ids"],
            coefficients,
            loss.normalizer,
            batch.get("decoder_segment_ids"),
        )

        pair_weights = {} if beta is None else {"pair_weights": mutual_information.pair_weights(batch)}

        rules = nn.get_logical_axis_rules()

        def loss_fn(trained: Params, cut: Arrays, rngs: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
            params = trained if trainable is None else lora.scaled(joined(all_params, trained))
            with nn.logical_axis_rules(partitioning.sequence_parallel(rules) if sequence_parallel else rules):
                hidden = model.apply(
                    {"params": params},
                    ModelInputs.of(cut),
                    deterministic=False,
                    rngs=rngs,
                    method="hidden",
                )
            value, stats = weighted_cross_entropy(
                hidden,
                output_kernel(params, config),
                cut["decoder_target_tokens"],
                cut["token_weights"],
                loss.z_loss,
                loss.label_smoothing,
                chunk_tokens,
                cut["decoder_loss_weights"] > 0.0,
                logit_cap,
            )
            metrics = token_metrics(cut, stats)
            if beta is not None:
                kernel = output_kernel(params, config)
                term, pairs = mutual_information.mutual_information(hidden, kernel, cut, cut["pair_weights"], logit_cap)
                value, metrics["loss/mutual_information"] = value + beta * term, pairs
            if weighing:
                sums = uncertainty.weighted_losses(cut["token_weights"], cut["decoder_task_ids"], stats.cross_entropy)
                metrics[_TASK_LOSSES] = (sums, sums)
            return value, metrics

        def value_and_gradients(*args: Any) -> tuple[tuple[jax.Array, Metrics], Params]:
            result, gradients = jax.value_and_grad(loss_fn, has_aux=True)(*args)
            return result, jax.tree.map(partitioning.split, gradients, part(axes)) if gathers else gradients

        def part(tree: Params) -> Params:
            return tree if trainable is None else trainable.part(tree)

        axes = lora.logical_axes(param_logical_axes(config), state.params) if gathers else {}
        all_params = compute_params(state.params, config)
        if gathers:
            all_params = gathered_params(all_params, axes, param_gather)
        dropout = jax.random.fold_in(rng, state.step)
        (value, metrics), gradients = _accumulate(
            value_and_gradients,
            part(all_params),
            {**batch, "token_weights": weights, **pair_weights},
            dropout,
            num_microbatches,
        )
        gradients = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradients)
        more = {"task_losses": metrics.pop(_TASK_LOSSES)[0]} if weighing else {}
        # Optax mixes int32 counts with floats, which a caller's stricter promotion settings would forbid.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            before = part(state.params)
            updates, opt_state = optimizer.transform.update(gradients, state.opt_state, before, **more)
            learning_rate = jnp.asarray(optimizer.learning_rate(state.step), jnp.float32)
        params = optax.apply_updates(before, updates)
        ema_params = state.ema_params
        if ema_decay is not None:
            ema_params = optax.incremental_update(params, ema_params, 1.0 - ema_decay)
        if trainable is not None:
            params = joined(state.params, params)
        one = jnp.float32(1.0)
        metrics["loss"] = (value, one)
        metrics["grad_norm"] = (optax.tree.norm(gradients), one)
        metrics["learning_rate"] = (learning_rate, one)
        metrics["effective_lambda"] = effective_lambda(weights, batch["decoder_task_ids"])
        decoded = jnp.sum(batch["decoder_target_tokens"] != 0, dtype=jnp.float32)  # also those without weight
        metrics["tokens/decoder"] = (decoded, jnp.float32(0.0))
        if weighing or callable(loss.lam):
            metrics["lambda"] = (coefficients[1], coefficients[0])
        updated = TrainState(state.step + 1, params, opt_state, ema_params)
        if skip_nonfinite:
            norms = jnp.stack([value, metrics["grad_norm"][0], optax.tree.norm(updates)])
            updated, metrics = skipped_if(~jnp.isfinite(norms).all(), state, updated, metrics)
        return updated, metrics

    return step


def skipped_if(
    bad: Bool[Array, ""], before: TrainState, after: TrainState, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """Returns ``before`` instead of ``after`` where ``bad``, and the metrics without the values of that update.

    Integers advance in any case: the step, and the counts of the optimizer, from which schedules compute the learning rate.
    The metric ``skipped_updates`` counts.
    """

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(bad, old, new) if jnp.issubdtype(new.dtype, jnp.inexact) else new

    measured = ("loss", "grad_norm", "token_accuracy")
    kept: Metrics = {
        name: (jnp.where(bad, 0.0, total), jnp.where(bad, 0.0, count)) if name.startswith(measured) else (total, count)
        for name, (total, count) in metrics.items()
    }
    kept[SKIPPED] = (bad.astype(jnp.float32), jnp.float32(0.0))
    return jax.tree.map(chosen, after, before), kept


def jit_step(
    step: Callable[..., tuple[TrainState, Metrics]],
    shardings: TrainState,
    mesh: Mesh,
    compiler_options: dict[str, bool | int | float | str] | None = None,
) -> jax.stages.Wrapped:
    """Returns the jitted training step, which donates its input state.

    Args:
      step: see :func:`make_train_step`.
      shardings: shardings of the state, the same before and after the step.
      mesh: the mesh on which metrics are replicated.
      compiler_options: XLA compiler options, as :func:`distill.sharding.xla_options.accepted` returned them.
    """
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings, partitioning.replicated(mesh)),
        compiler_options=compiler_options,
    )


def compute_params(params: Params, config: NetworkConfig) -> Params:
    """Returns ``params`` with kernels cast to the compute dtype; a step differentiates with respect to these.

    The layers would cast the kernels anyway. Casting once, before the layers, halves the bytes that all-gathers of
    kernels and reductions of their gradients send, and the bytes that gradients take. The token table, biases and norms
    stay float32. Adapters are cast as their kernels are. In stacked layers, the layer axis is outermost: see
    :func:`distill.sharding.partitioning.layers_outermost`.
    """
    if config.dtype == "float32":
        return params

    def cast(path: tuple[Any, ...], leaf: jax.Array, axes: Any) -> jax.Array:
        if path[-1].key not in ("kernel", LORA_A, LORA_B):
            return leaf
        return partitioning.layers_outermost(leaf.astype(config.dtype), axes)

    return jax.tree_util.tree_map_with_path(cast, params, lora.logical_axes(param_logical_axes(config), params))


def gathered_params(params: Params, logical_axes: Params, param_gather: str) -> Params:
    """All-gathers the stacks that ``param_gather`` names over ``fsdp``, except parameters with a ``vocab`` axis.

    A step reads few rows of the token table, so the lookup works on its shards and exchanges activations instead (see
    :func:`distill.sharding.embedding.lookup`). The loss shards the output kernel itself.
    """

    def place(param: jax.Array, axes: Any) -> jax.Array:
        return param if "vocab" in axes else partitioning.gathered(param, axes)

    stacks = partitioning.PARAM_GATHERS[param_gather]
    return {**params, **{stack: jax.tree.map(place, params[stack], logical_axes[stack]) for stack in stacks}}


def token_metrics(batch: Arrays, stats: TokenStats) -> Metrics:
    """Returns unweighted loss and token accuracy per task, and token counts, of one batch or micro-batch."""
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
    """Returns the total weights of rationale tokens and of label tokens; their ratio is the batch's actual λ."""
    rationale = jnp.sum(weights, where=ids == task_ids.RATIONALE)
    label = jnp.sum(weights, where=ids == task_ids.LABEL)
    return rationale, label


def _accumulate(
    value_and_grad: Callable[..., tuple[tuple[jax.Array, Metrics], Params]],
    params: Params,
    batch: Arrays,
    rng: jax.Array,
    num_microbatches: int,
) -> tuple[tuple[jax.Array, Metrics], Params]:
    """Sums value, metrics and gradients over micro-batches.

    Row r goes to micro-batch r mod num_microbatches, so a sharded batch needs no communication.
    """
    if num_microbatches == 1:
        return value_and_grad(params, batch, {"dropout": rng})

    def cut(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(x.shape[0] // num_microbatches, num_microbatches, *x.shape[1:]), 1, 0)

    def body(total: Any, xs: tuple[jax.Array, Arrays]) -> tuple[Any, None]:
        index, microbatch = xs
        part = value_and_grad(params, microbatch, {"dropout": jax.random.fold_in(rng, index)})
        return jax.tree.map(lambda all_before, one: all_before + one.astype(jnp.float32), total, part), None

    cuts = jax.tree.map(cut, batch)
    one_cut = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), cuts)
    shapes = jax.eval_shape(value_and_grad, params, one_cut, {"dropout": rng})
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)
    total, _ = jax.lax.scan(body, zeros, (jnp.arange(num_microbatches), cuts))
    return total


def summarize(metrics: Sequence[Fetchable]) -> dict[str, float]:
    """Merges the metrics of several steps on the host: the mean of each metric, or the total of ``tokens/`` metrics and of
    ``skipped_updates``.

    A mean whose count is 0 is left out.
    """
    if not metrics:
        return {}
    host = jax.device_get(metrics)
    out = {}
    for name in host[0]:
        total = sum(float(m[name][0]) for m in host)
        count = sum(float(m[name][1]) for m in host)
        if name.startswith("tokens/") or name == SKIPPED:
            out[name] = total
        elif count > 0.0:
            out[name] = total / count
    return out
