"""Runs a written batch again and measures parameters, activations, gradients and updates, to find the first nan."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import linen as nn

from distill import atomic_files
from distill.checkpoints.manager import CheckpointConfig, Checkpoints
from distill.model import lora
from distill.model.configs import NetworkConfig
from distill.model.network import ModelInputs
from distill.model.networks import network_of
from distill.model.parameters import Params, unstack_layers
from distill.sharding import partitioning
from distill.training import nonfinite
from distill.training.config import DataConfig, LoopConfig
from distill.training.losses import TwoTaskLoss
from distill.training.optimizers import Optimizer, restricted
from distill.training.state import TrainState, abstract_state, make_state, shardings_of
from distill.training.step import compute_params, jit_step, make_train_step, summarize

_COLUMNS = ("max_abs", "rms", "nonfinite")


@dataclasses.dataclass(frozen=True)
class Report:
    """Measurements of one update.

    Attributes:
      step: the update's step.
      state: the state it was run from, in words.
      exact: whether that state is the one that the run had.
      first_nonfinite: the first array that holds nan or infinity, in the order of computation; None if all are finite.
      metrics: loss, its parts, gradient norm, effective λ; nan and infinity as text.
      arrays: by kind (``parameters``, ``activations``, ``gradients``, ``updates``) and name: ``max_abs`` and ``rms`` of the
        finite values, and ``nonfinite``, the share of values that are nan or infinite. Activations in the order of
        computation.
    """

    step: int
    state: str
    exact: bool
    first_nonfinite: str | None
    metrics: dict[str, float | str]
    arrays: dict[str, dict[str, dict[str, float]]]

    def lines(self) -> list[str]:
        """The report as a table."""
        out = [f"step {self.step}, run from {self.state}" + ("" if self.exact else " (not the state that the run had)")]
        remedy = "" if self.exact else "; for the run's own state, --exact repeats the updates up to the step"
        out += [f"first non-finite: {self.first_nonfinite or f'none; all values are finite{remedy}'}", ""]
        out += [f"{name:<24} {value:.6g}" if isinstance(value, float) else f"{name:<24} {value}" for name, value in
                self.metrics.items()]  # fmt: skip
        for kind, rows in self.arrays.items():
            width = max(map(len, [kind, *rows]))
            out += ["", f"{kind:<{width}}  {'max abs':>10}  {'rms':>10}  non-finite"]
            out += [
                f"{name:<{width}}  {row['max_abs']:>10.3g}  {row['rms']:>10.3g}  {row['nonfinite']:>10.2%}"
                for name, row in rows.items()
            ]
        return out


def replay(
    model_dir: str,
    step: int | None = None,
    *,
    exact: bool = False,
    model: NetworkConfig,
    data: DataConfig,
    loss: TwoTaskLoss,
    optimizer: Optimizer,
    loop: LoopConfig,
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    rules: partitioning.Rules = partitioning.DEFAULT_RULES,
    checkpoints: CheckpointConfig = CheckpointConfig(),
    initial_checkpoint_path: str | None = None,
    **others: object,
) -> Report:
    """Runs the batch of an update that was not finite again, on the newest checkpoint before it.

    Dropout and loss weights are those of the update. Writes ``replay/step_<N>.report.json``, and nothing else.

    Args:
      model_dir: the directory of the run.
      step: the update; None takes the newest one that was written.
      exact: first repeat the updates between the checkpoint and the step, so that the state is the run's. The tasks must
        be registered.
      model, data, loss, optimizer, loop, mesh, rules, checkpoints, initial_checkpoint_path, others: the arguments of the
        run, see :func:`distill.training.train.train`.

    Raises:
      FileNotFoundError: no batch was written, or none of this step.
      ValueError: a file is damaged, or several processes run.
    """
    del others
    if jax.process_count() > 1:
        raise ValueError("replay runs in one process; start it without --multiprocess, on one machine")
    directory = epath.Path(model_dir)
    if step is None:
        written = nonfinite.steps(directory)
        if not written:
            raise FileNotFoundError(f"{directory}/{nonfinite.FOLDER} holds no batch: no update of this run was refused")
        step = written[-1]
    arrays, described = nonfinite.read(directory, step)
    device_mesh = mesh.build()
    optimizer = restricted(optimizer, loop.trainable)
    rng = jax.random.key(described["dropout_rng"]["key"])
    with jax.set_mesh(device_mesh), nn.logical_axis_rules(list(rules)):
        like = abstract_state(model, optimizer, device_mesh, rules, ema=loop.ema_decay is not None)
        saver = Checkpoints(directory, model, verify=checkpoints.verify)
        found = saver.restore_before(like, step)
        saver.close()
        if found is not None:
            state, position, _ = found
            origin = f"the checkpoint of step {int(state.step)}"
        else:
            ema = loop.ema_decay is not None
            state = make_state(model, optimizer, device_mesh, rules, seed=loop.seed, ema=ema,
                               initial_checkpoint_path=initial_checkpoint_path)  # fmt: skip
            position, origin = None, "the initial parameters (no checkpoint is kept from before)"
        since = step - 1 - int(state.step)
        if exact and since:
            one = make_train_step(model, loss, optimizer, **loop.step_options())
            jitted = jit_step(one, shardings_of(like), device_mesh)
            stream = data.stream(loop.seed, partitioning.local_rows(data.batch_size, device_mesh))
            if position is not None:
                stream.restore(position)
            for _ in range(since):
                arrays_of_step = partitioning.to_global(next(stream).arrays, device_mesh)
                state, _ = jitted(state, arrays_of_step, rng, loss.constants())
            _check_same(arrays, next(stream).arrays, step)
            origin += f" and {since} repeated updates"
        # Dropout and schedules of the loss's weights depend on the step.
        state = state.replace(step=jax.device_put(np.int32(step - 1), state.step.sharding))
        batch = partitioning.to_global(arrays, device_mesh)
        gradients, more, metrics = _gradients(model, loss, optimizer, loop, state, batch, rng)
        measured = {
            "parameters": _measured(state.params),
            "activations": _activations(model, loop.num_microbatches, state, batch, rng),
            "gradients": _measured(gradients),
            "updates": _measured(_updates(optimizer, gradients, state, more)),
        }
    exact = since == 0 or exact
    report = Report(step, origin, exact, _first(measured, metrics), _plain(metrics), measured)
    path = directory / nonfinite.FOLDER / f"step_{step}.report.json"
    atomic_files.replace(path, json.dumps(dataclasses.asdict(report), indent=2) + "\n")
    return report


def _check_same(written: Mapping[str, np.ndarray], read: Mapping[str, np.ndarray], step: int) -> None:
    differ = [name for name in read if not np.array_equal(written[name], read[name])]
    if differ:
        raise ValueError(
            f"the batch of step {step} is not the one that the data yields now ({', '.join(differ)} differ): restore the "
            "data files, or leave out --exact"
        )


def _gradients(
    model: NetworkConfig,
    loss: TwoTaskLoss,
    optimizer: Optimizer,
    loop: LoopConfig,
    state: TrainState,
    batch: Any,
    rng: jax.Array,
) -> tuple[Params, dict[str, Any], dict[str, float]]:
    """The gradients of the run's own step, the other arguments that its optimizer gets, and its metrics.

    With the run's micro-batches and collectives, and the weights of the tasks that the optimizer has learned.
    """

    def noted(gradients: Any, before: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        del before, params
        return jax.tree.map(jnp.zeros_like, gradients), (gradients, more)

    transform = optax.GradientTransformationExtraArgs(lambda params: params, noted)
    probe = dataclasses.replace(optimizer, transform=transform, learning_rate=lambda _: jnp.float32(0.0))
    options = loop.step_options() | {"ema_decay": None, "skip_nonfinite": False}
    step = jax.jit(make_train_step(model, loss, probe, **options))
    after, metrics = step(TrainState(state.step, state.params, state.opt_state), batch, rng)
    values = summarize([metrics])
    values.pop("learning_rate", None)
    return *after.opt_state, values


def _updates(optimizer: Optimizer, gradients: Params, state: TrainState, more: dict[str, Any]) -> Params:
    def update(gradients: Params, opt_state: Any, params: Params, more: dict[str, Any]) -> Params:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return optimizer.transform.update(gradients, opt_state, params, **more)[0]

    trained = state.params if optimizer.trainable is None else optimizer.trainable.part(state.params)
    return jax.jit(update)(gradients, state.opt_state, trained, more)


def _activations(
    config: NetworkConfig, num_microbatches: int, state: TrainState, batch: Mapping[str, jax.Array], rng: jax.Array
) -> dict[str, dict[str, float]]:
    """Measures the output of every layer, in the order of computation, over all micro-batches.

    Stacked layers are unstacked, so that each is measured; their dropout masks then differ from those of training.
    """
    params, plain = unstack_layers(state.params, config)
    model = network_of(dataclasses.replace(plain, remat_policy="none"))
    names: list[str] = []

    @jax.jit
    def measure(params: Params, cut: Mapping[str, jax.Array], rng: jax.Array) -> list[dict[str, jax.Array]]:
        names.clear()
        stats: list[dict[str, jax.Array]] = []

        def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and not isinstance(context.module, nn.Dropout):
                leaves = [leaf for leaf in jax.tree.leaves(out) if isinstance(leaf, jax.Array)]
                if leaves and jnp.issubdtype(leaves[0].dtype, jnp.floating):
                    names.append("/".join(context.module.path))
                    stats.append(_stats(leaves[0]))
            return out

        with nn.intercept_methods(watch):
            model.apply(
                {"params": lora.scaled(compute_params(params, plain))},
                ModelInputs.of(cut),
                deterministic=False,
                rngs={"dropout": rng},
                method="hidden",
            )
        return stats

    dropout = jax.random.fold_in(rng, state.step)
    parts = []
    for number in range(num_microbatches):
        key = dropout if num_microbatches == 1 else jax.random.fold_in(dropout, number)
        cut = {name: array[number::num_microbatches] for name, array in batch.items()}
        parts.append(jax.device_get(measure(params, cut, key)))
    out: dict[str, dict[str, float]] = {}
    for name, *rows in zip(names, *parts):
        calls = sum(known == name or known.startswith(f"{name} (call ") for known in out)
        shown = name if not calls else f"{name} (call {calls + 1})"
        out[shown] = {
            "max_abs": float(max(row["max_abs"] for row in rows)),
            "rms": float(np.sqrt(np.mean([np.float64(row["rms"]) ** 2 for row in rows]))),
            "nonfinite": float(np.mean([row["nonfinite"] for row in rows])),
        }
    return out


def _stats(leaf: jax.Array) -> dict[str, jax.Array]:
    finite = jnp.isfinite(leaf)
    values = jnp.where(finite, leaf, 0).astype(jnp.float32)
    largest = jnp.max(jnp.abs(values))
    # Squares of extreme values would overflow or vanish; powers of two scale exactly.
    factor = jnp.where(largest > 2.0**40, 2.0**-80, jnp.where(largest < 2.0**-40, 2.0**80, 1.0))
    rms = jnp.sqrt(jnp.mean(jnp.square(jax.lax.optimization_barrier(values * factor)))) / factor
    return {"max_abs": largest, "rms": rms, "nonfinite": jnp.mean((~finite).astype(jnp.float32))}


@jax.jit
def _all_stats(leaves: list[jax.Array]) -> list[dict[str, jax.Array]]:
    return [_stats(leaf) for leaf in leaves]


def _measured(tree: Any) -> dict[str, dict[str, float]]:
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    rows = jax.device_get(_all_stats(list(leaves)))
    return {name: {column: float(row[column]) for column in _COLUMNS} for name, row in zip(names, rows)}


def _first(measured: Mapping[str, Mapping[str, Mapping[str, float]]], metrics: Mapping[str, float]) -> str | None:
    """The first non-finite array in the order of computation: parameters, activations, loss, gradients, updates."""
    for kind, rows in measured.items():
        if kind == "gradients" and not np.isfinite(metrics["loss"]):
            return "loss"
        for name, row in rows.items():
            if row["nonfinite"]:
                return f"{kind.removesuffix('s')} {name}"
    return None


def _plain(metrics: Mapping[str, float]) -> dict[str, float | str]:
    return {name: value if np.isfinite(value) else str(value) for name, value in metrics.items()}
