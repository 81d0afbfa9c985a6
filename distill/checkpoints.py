"""Checkpoints: one Orbax step holds the training state, the position of the data and what model it is of."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from distill import partitioning, stopping
from distill.network import T5Config
from distill.parameters import param_logical_axes, param_shapes
from distill.train_step import TrainState

LATEST, BEST = "checkpoints", "best"


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save.

    Attributes:
      period: steps between checkpoints.
      keep: the most recent ones kept; the best on validation is kept besides them.
    """

    period: int = 1000
    keep: int = 2

    def __post_init__(self):
        if self.period < 1 or self.keep < 1:
            raise ValueError(f"CheckpointConfig wants period ≥ 1 and keep ≥ 1; got {self.period=}, {self.keep=}")


class SaveError(OSError):
    """A checkpoint could not be written; its text names the step, the folder and the cause."""


class Checkpoints:
    """The checkpoints of one model directory.

    Args:
      model_dir: local path or ``gs://``; checkpoints lie in ``<model_dir>/checkpoints/<step>``, the best parameters in
        ``<model_dir>/best/<step>``.
      config: of the student; written into every checkpoint, and compared when one is restored.
      keep: recent checkpoints kept.
    """

    def __init__(self, model_dir: str | Path, config: T5Config, keep: int = 2):
        self.model_dir = epath.Path(model_dir)
        self.config = config
        self._latest = self._manager(LATEST, keep)
        self._best = self._manager(BEST, None)
        self._named: int | None = None  # the best step that the newest committed checkpoint names
        self._naming: int | None = None  # the one that the checkpoint being written names

    def _manager(self, folder: str, keep: int | None) -> ocp.CheckpointManager:
        # Both managers may be saving the same step in the background: without names of their own, the barriers at which
        # several processes meet would be taken for each other.
        together = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=True, multiprocessing_options=together
        )
        return ocp.CheckpointManager(_absolute(self.model_dir / folder), options=options)

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._latest.latest_step()

    def save(self, state: TrainState, position: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Saves in the background; a second call waits for the first.

        Args:
          state: the training state.
          position: of the data, JSON-ready (:meth:`distill.batches.BatchStream.position`).
          progress: what the loop needs besides (best score so far, evaluations without improvement), JSON-ready.
        """
        step = int(state.step)
        if step in self._latest.all_steps():
            return
        # The best parameters that a checkpoint names are on disk before it is.
        self.wait()
        self._named, self._naming = self._naming, progress.get("best_step") or None
        self._keep_bests(at_least=self._named)
        with self._saving(self._latest):
            self._latest.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    position=ocp.args.JsonSave(dict(position)),
                    progress=ocp.args.JsonSave(dict(progress)),
                    model=ocp.args.JsonSave(dataclasses.asdict(self.config)),
                ),
            )

    def save_best(self, step: int, params: Any, metrics: Mapping[str, float]) -> None:
        """Adds the best parameters (those that validation was measured with).

        Earlier ones are removed as soon as no checkpoint that a restart could go back to names them.
        """
        there = list(self._best.all_steps())
        if step in there:
            return
        for old in set(there) - {self._named, self._naming, max(there, default=None)}:
            self._best.delete(old)
        with self._saving(self._best):
            self._best.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    metrics=ocp.args.JsonSave(dict(metrics)),
                    model=ocp.args.JsonSave(dataclasses.asdict(self.config)),
                ),
            )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any], dict[str, Any]]:
        """The newest checkpoint, on the shardings of ``like`` (arrays or ShapeDtypeStructs): state, position, progress.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is of another model; every differing setting is listed.
        """
        step = self._latest.latest_step()
        if step is None:
            raise FileNotFoundError(f"no checkpoint under {self.model_dir / LATEST}")
        self._check_model(self._latest, step)
        restored = self._latest.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_abstract(like)),
                position=ocp.args.JsonRestore(),
                progress=ocp.args.JsonRestore(),
            ),
        )
        return restored["state"], restored["position"], restored["progress"]

    def restore_best(self, like: Any) -> tuple[int, Any]:
        """The step and the parameters that were best on validation, on the shardings of ``like``.

        Raises FileNotFoundError where none was saved, ValueError where it is of another model.
        """
        step = self._best.latest_step()
        if step is None:
            raise FileNotFoundError(f"no best parameters under {self.model_dir / BEST}")
        self._check_model(self._best, step)
        restored = self._best.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(like))))
        return step, restored["params"]

    def _keep_bests(self, at_least: int | None) -> None:
        """Removes best parameters of steps before ``at_least``."""
        for step in self._best.all_steps() if at_least is not None else ():
            if step < at_least:
                self._best.delete(step)

    def agree(self, best_step: int | None) -> tuple[list[int], bool]:
        """Removes best parameters of other steps than the one that a restored run's progress names.

        They are what an attempt left behind that was killed after its last checkpoint, or one of other settings.

        Args:
          best_step: as saved; None: nothing was validated yet.

        Returns:
          The steps that were removed, and whether the parameters of ``best_step`` are there (True for None).
        """
        there = list(self._best.all_steps())
        stale = [step for step in there if step != best_step]
        for step in stale:
            self._best.delete(step)
        self._naming = best_step
        return stale, best_step is None or best_step in there

    def check_for_errors(self) -> None:
        """Raises :class:`SaveError` if a save in the background has failed; waits for nothing."""
        for manager in (self._latest, self._best):
            if not manager.is_saving_in_progress():
                with self._saving(manager):
                    manager.wait_until_finished()

    @contextlib.contextmanager
    def _saving(self, manager: ocp.CheckpointManager) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the operating system, of TensorStore, or of a storage's client
            # Orbax's threads wait for signals from the one that failed, and would keep the process for minutes.
            stopping.do_not_outlive()
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            raise SaveError(f"a checkpoint could not be written to {manager.directory}: {cause}") from error

    def finish(self, best_step: int | None) -> None:
        """Waits for all saves, and leaves no best parameters but those of ``best_step``."""
        self.wait()
        self._keep_bests(at_least=best_step)

    def best_step(self) -> int | None:
        """The step of the best parameters, or None if none were saved."""
        return self._best.latest_step()

    def restore_params(self, like: Any) -> tuple[int, Any]:
        """Step and evaluation parameters of the newest checkpoint, without its optimizer state."""
        step = self._latest.latest_step()
        if step is None:
            raise FileNotFoundError(f"no checkpoint under {self.model_dir / LATEST}")
        self._check_model(self._latest, step)
        abstract = _abstract(like)
        for name in ("ema_params", "params"):
            wanted = {name: abstract}
            # Without these the arrays would want the devices of whoever saved them.
            onto = ocp.checkpoint_utils.construct_restore_args(wanted)
            item = ocp.args.PyTreeRestore(wanted, restore_args=onto, partial_restore=True)
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                saved = reader.metadata(self._latest.directory / str(step) / "state").item_metadata
                if saved.get(name) is None:
                    continue
                restored = reader.restore(self._latest.directory / str(step) / "state", args=item)
                return step, restored[name]
        raise ValueError(f"checkpoint {step} under {self.model_dir / LATEST} holds no parameters")

    def _check_model(self, manager: ocp.CheckpointManager, step: int) -> None:
        saved = manager.restore(step, args=ocp.args.Composite(model=ocp.args.JsonRestore()))["model"]
        check_same_model(saved, self.config, f"checkpoint {manager.directory / str(step)}")

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        for manager in (self._best, self._latest):
            with self._saving(manager):
                manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the directories."""
        self._latest.close()
        self._best.close()


def restore_student(
    model_dir: str | Path,
    config: T5Config,
    mesh: jax.sharding.Mesh,
    rules: partitioning.Rules = partitioning.DEFAULT_RULES,
) -> tuple[int, Any]:
    """A trained student for evaluation: the parameters that validated best, else those of the newest checkpoint.

    Args:
      model_dir: where it was trained.
      config: of the student; must be what was trained.
      mesh: parameters are laid out on it.
      rules: logical axis → mesh axis.

    Returns:
      The step, and the parameters (the moving average where there is one).

    Raises:
      FileNotFoundError: nothing was saved there.
      ValueError: it is of another model.
    """
    shapes = param_shapes(config)
    shardings = partitioning.param_shardings(shapes, param_logical_axes(config), mesh, rules)
    like = jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings)
    return restore_like(model_dir, config, like)


def restore_like(model_dir: str | Path, config: T5Config, like: Any) -> tuple[int, Any]:
    """:func:`restore_student` onto the shardings of ``like``, a tree of ShapeDtypeStructs."""
    if not (epath.Path(model_dir) / LATEST).exists():
        raise FileNotFoundError(f"{model_dir} holds no {LATEST} folder: no student was trained there")
    saver = Checkpoints(model_dir, config)
    try:
        if saver.best_step() is not None:
            return saver.restore_best(like)
        return saver.restore_params(like)
    finally:
        saver.close()


# Settings that say how the same parameters are run, not what they are.
_NOT_THE_MODEL = frozenset({"dropout_rate", "dtype", "remat_policy", "attention"})


def check_same_model(saved: Mapping[str, Any], config: T5Config, where: str) -> None:
    """Raises ValueError listing every setting in which ``saved`` (a JSON dict) is not the model of ``config``."""
    mine = json.loads(json.dumps(dataclasses.asdict(config)))
    names = sorted((set(saved) | set(mine)) - _NOT_THE_MODEL)
    differ = [f"{n}: {saved.get(n)!r} there, {mine.get(n)!r} here" for n in names if saved.get(n) != mine.get(n)]
    if differ:
        raise ValueError(f"{where} is of another model: " + "; ".join(differ))


def _absolute(path: epath.Path) -> epath.Path:
    return path if "://" in str(path) else epath.Path(Path(str(path)).resolve())


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
