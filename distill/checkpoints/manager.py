"""Checkpoints: one Orbax step holds the training state, the data position and the model's configuration.

Every step has digests of its files, checked when the step is restored (:mod:`distill.checkpoints.digests`).
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath

from distill import validation
from distill.checkpoints import adapters, digests, integrity, keeping, object_store, schemas, storage_errors
from distill.checkpoints.digests import Damaged
from distill.checkpoints.integrity import BEST, DAMAGED, LATEST
from distill.checkpoints.watchdog import SaveError, saving
from distill.model.configs import NetworkConfig
from distill.model.parameters import param_logical_axes, param_shapes
from distill.sharding import partitioning

__all__ = [
    "BEST",
    "LATEST",
    "CheckpointConfig",
    "Checkpoints",
    "Damaged",
    "SaveError",
    "restore_like",
    "restore_student",
]

absl_logging.get_absl_logger().addFilter(storage_errors.one_line)
logging.getLogger("asyncio").addFilter(storage_errors.one_line)


class TrainingState(Protocol):
    """The part of a state that this module reads: its step. The rest is any PyTree."""

    @property
    def step(self) -> Any:
        """Updates made so far, an int32 scalar."""


State = TypeVar("State", bound=TrainingState)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """The schedule of checkpoints.

    Attributes:
      period: steps between checkpoints.
      keep: number of most recent checkpoints to keep. The best parameters on validation are kept in any case.
      keep_every: also keep every checkpoint whose step is a multiple of this number; None keeps no others.
      keep_best: also keep this number of checkpoints with the best validation scores, of those saved at a step that was
        validated; None keeps no others.
      verify: True or "sha256": digests of all files are written, and the XXH3 or the SHA-256 checked at a restore.

    Raises:
      ValueError: a number below 1, or another ``verify``.
    """

    period: int = 1000
    keep: int = 2
    keep_every: int | None = None
    keep_best: int | None = None
    verify: bool | str = True

    def __post_init__(self) -> None:
        digests.chosen(self.verify)
        for name in ("period", "keep"):
            validation.check_range(f"CheckpointConfig.{name}", getattr(self, name), "≥ 1")
        for name in ("keep_every", "keep_best"):
            validation.check_range(f"CheckpointConfig.{name}", getattr(self, name), "≥ 1 or None")


class Checkpoints:
    """The checkpoints of one model directory.

    Args:
      model_dir: local path or ``gs://``. Checkpoints are saved in ``<model_dir>/checkpoints/<step>``, the best
        parameters in ``<model_dir>/best/<step>``.
      config: the student's configuration; saved in every checkpoint and compared when one is restored.
      keep, keep_every, keep_best, verify: see :class:`CheckpointConfig`.
      clean: whether to remove what killed runs left unfinished. Only for a caller that holds the directory's lock.
    """

    def __init__(
        self,
        model_dir: str | Path,
        config: NetworkConfig,
        keep: int = 2,
        *,
        keep_every: int | None = None,
        keep_best: int | None = None,
        verify: bool | str = True,
        clean: bool = False,
    ):
        storage_errors.hide_late_writes()
        self.model_dir = epath.Path(model_dir)
        self.config = config
        self.verify = verify
        self._clean = clean
        self._scores = None if keep_best is None else keeping.BestScores(keep_best)
        self._latest = self._manager(LATEST, keeping.policy(keep, keep_every, self._scores))
        self._best = self._manager(BEST, None)
        if self._scores is not None:
            self._scores.read(self._latest.directory, self._latest.all_steps())
        self._named: int | None = None  # the best step that the newest committed checkpoint names
        self._naming: int | None = None  # the one that the checkpoint being written names

    @classmethod
    def of_run(cls, model_dir: str | Path, config: NetworkConfig, settings: CheckpointConfig) -> "Checkpoints":
        """Opens the directory of a run that holds its lock, and removes what killed runs left unfinished."""
        keep = {"keep_every": settings.keep_every, "keep_best": settings.keep_best}
        return cls(model_dir, config, settings.keep, **keep, verify=settings.verify, clean=True)

    def _manager(self, folder: str, policy: Any) -> ocp.CheckpointManager:
        # Both managers may save the same step in the background: separate prefixes keep their barriers apart.
        together = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder)
        directory = _absolute(self.model_dir / folder)
        if "://" in str(directory):
            object_store.needs_no_storage_client()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            create=True,
            enable_async_checkpointing=True,
            multiprocessing_options=together,
            cleanup_tmp_directories=self._clean,
            temporary_path_class=digests.temporary_path_class(directory) if self.verify else None,
            lightweight_initialize=True,  # Orbax's own metadata of a step may be damaged
        )
        return ocp.CheckpointManager(directory, options=options)

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._latest.latest_step()

    def save(self, state: TrainingState, position: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Saves in the background; a second call waits for the first.

        Args:
          state: the training state.
          position: the data position, JSON-ready (:meth:`distill.data.batches.BatchStream.position`).
          progress: other state of the training loop (best score so far, evaluations without improvement), JSON-ready.
        """
        step = int(state.step)
        if step in self._latest.all_steps():
            return
        # The best parameters that a checkpoint names are written before the checkpoint.
        self.wait()
        self._named, self._naming = self._naming, progress.get("best_step") or None
        self._keep_bests(at_least=self._named)
        if self._scores is not None:
            self._scores.add(step, progress)
        with saving(self._latest):
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
        """Adds ``params``, with which validation was measured, as the best parameters.

        Earlier ones are removed once no checkpoint that a restart could restore names them.
        """
        there = list(self._best.all_steps())
        if step in there:
            return
        for old in set(there) - {self._named, self._naming, max(there, default=None)}:
            self._best.delete(old)
        with saving(self._best):
            self._best.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    metrics=ocp.args.JsonSave(dict(metrics)),
                    model=ocp.args.JsonSave(dataclasses.asdict(self.config)),
                ),
            )

    def restore(self, like: State) -> tuple[State, dict[str, Any], dict[str, Any]]:
        """Restores the newest intact checkpoint onto the shardings of ``like`` (arrays or ShapeDtypeStructs).

        A damaged one is reported by a warning and moved to ``<model_dir>/damaged``, and the next older one is tried. Call
        it with the directory's lock held.

        Returns:
          The state, the data position and the progress.

        Raises:
          FileNotFoundError: there is no checkpoint.
          Damaged: there are checkpoints, and all are damaged.
          ValueError: the checkpoint is of another model, and the message lists every differing setting; or its state has
            other arrays than ``like``.
        """
        last: Damaged | None = None
        while (step := self._latest.latest_step()) is not None:
            try:
                return self._restored(step, like)
            except Damaged as error:
                last = error
                self._set_aside(self._latest, step, error)
        if last is not None:
            raise Damaged(
                f"{last}; no intact checkpoint is left in {self.model_dir / LATEST}: train in another MODEL_DIR, or remove "
                f"{self.model_dir} to begin again"
            )
        raise FileNotFoundError(f"no checkpoint under {self.model_dir / LATEST}")

    def _restored(self, step: int, like: State) -> tuple[State, dict[str, Any], dict[str, Any]]:
        folder = self._latest.directory / str(step)
        adapters.check_same_arrays(folder, like)
        with integrity.reading(folder, self.config, self.verify):
            position, progress = schemas.read_json(folder, "position"), schemas.read_json(folder, "progress")
            restored = self._latest.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(_abstract(like)))
            )
        return restored["state"], position, progress

    def restore_before(self, like: State, step: int) -> tuple[State, dict[str, Any], dict[str, Any]] | None:
        """:meth:`restore` of the newest intact checkpoint before ``step``, moving none; None if no such step exists."""
        for there in sorted((there for there in self._latest.all_steps() if there < step), reverse=True):
            try:
                return self._restored(there, like)
            except Damaged as error:
                logging.warning("%s; it is skipped", error)
        return None

    def restore_best(self, like: Any) -> tuple[int, Any]:
        """Restores the best parameters on validation onto the shardings of ``like``; returns their step and them.

        Raises:
          FileNotFoundError: none were saved.
          Damaged: they are damaged.
          ValueError: they are of another model.
        """
        step = self._best.latest_step()
        if step is None:
            raise FileNotFoundError(f"no best parameters under {self.model_dir / BEST}")
        with integrity.reading(self._best.directory / str(step), self.config, self.verify):
            restored = self._best.restore(
                step, args=ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(like)))
            )
        return step, restored["params"]

    def _set_aside(self, manager: ocp.CheckpointManager, step: int, error: Damaged) -> None:
        """Moves a damaged step out of the way of later saves of the same step."""
        target = _absolute(self.model_dir / DAMAGED) / manager.directory.name / str(step)
        integrity.set_aside(manager.directory / str(step), target, error)
        manager.reload()

    def _keep_bests(self, at_least: int | None) -> None:
        """Removes best parameters of steps before ``at_least``."""
        for step in self._best.all_steps() if at_least is not None else ():
            if step < at_least:
                self._best.delete(step)

    def agree(self, best_step: int | None) -> tuple[list[int], bool]:
        """Removes best parameters of other steps than the one that a restored run's progress names.

        A run that was killed after its last checkpoint, or one with other settings, wrote them. Damaged best
        parameters are reported by a warning and moved to ``<model_dir>/damaged``.

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
        if best_step is not None and best_step in there:
            try:
                with integrity.reading(self._best.directory / str(best_step), self.config, self.verify):
                    pass
            except Damaged as error:
                self._set_aside(self._best, best_step, error)
                there.remove(best_step)
        return stale, best_step is None or best_step in there

    def check_for_errors(self) -> None:
        """Raises :class:`SaveError` if a save in the background has failed; waits for nothing."""
        for manager in (self._latest, self._best):
            if not manager.is_saving_in_progress():
                with saving(manager):
                    manager.wait_until_finished()

    def finish(self, best_step: int | None) -> None:
        """Waits for all saves, and removes all best parameters except those of ``best_step``."""
        self.wait()
        self._keep_bests(at_least=best_step)

    def best_step(self) -> int | None:
        """Returns the step of the best parameters, or None if none were saved."""
        return self._best.latest_step()

    def restore_params(self, like: Any) -> tuple[int, Any]:
        """Restores the newest checkpoint's step and evaluation parameters, without its optimizer state; merges adapters.

        Raises FileNotFoundError if there is no checkpoint, Damaged if it is damaged, ValueError if it is of another model
        or has no parameters.
        """
        step = self._latest.latest_step()
        if step is None:
            raise FileNotFoundError(
                f"no checkpoint under {self.model_dir / LATEST}: its training has saved none yet; wait for the first one, "
                "or repeat the training command if it has ended"
            )
        abstract = _abstract(like)
        folder = self._latest.directory / str(step)
        restored: Mapping[str, Any] = {}
        handler = ocp.PyTreeCheckpointHandler()
        with integrity.reading(folder, self.config, self.verify), ocp.Checkpointer(handler) as reader:
            # The reader's own ``metadata`` also looks for that of a step, which is in the folder above, and warns.
            saved = handler.metadata(folder / "state")
            if any(saved.get(name) for name in (adapters.PARAMS, adapters.AVERAGES)):
                wanted = adapters.wanted(saved, abstract)
                # Without restore args, Orbax restores arrays onto the devices that saved them.
                onto = ocp.checkpoint_utils.construct_restore_args(wanted)
                item = ocp.args.PyTreeRestore(wanted, restore_args=onto, partial_restore=True)
                restored = reader.restore(folder / "state", args=item)
        if restored:
            return step, adapters.evaluated(restored)
        raise ValueError(f"checkpoint {step} under {self.model_dir / LATEST} holds no parameters")

    def saving_in_progress(self) -> bool:
        """Whether a save continues in the background."""
        return self._latest.is_saving_in_progress() or self._best.is_saving_in_progress()

    def wait(self) -> None:
        """Blocks until all saves are on disk."""
        for manager in (self._best, self._latest):
            with saving(manager):
                manager.wait_until_finished()

    def close(self) -> None:
        """Waits for all saves and closes both checkpoint managers."""
        self._latest.close()
        self._best.close()


def restore_student(
    model_dir: str | Path,
    config: NetworkConfig,
    mesh: jax.sharding.Mesh,
    rules: partitioning.Rules = partitioning.DEFAULT_RULES,
    verify: bool | str = True,
) -> tuple[int, Any]:
    """Restores a student for evaluation: the best parameters on validation, or else those of the newest checkpoint.

    Args:
      model_dir: the model directory of the training run.
      config: the student's configuration; must be that of the training run.
      mesh: the mesh to shard parameters over.
      rules: logical axis → mesh axis.
      verify: which digests of all files are checked, see :class:`CheckpointConfig`.

    Returns:
      The step, and the float32 parameters (the moving average if there is one).

    Raises:
      FileNotFoundError: nothing was saved in ``model_dir``.
      Damaged: a file is damaged, or the best parameters are missing; no other step is used instead.
      ValueError: the checkpoint is of another model.
    """
    shapes = param_shapes(config)
    shardings = partitioning.param_shardings(shapes, param_logical_axes(config), mesh, rules)
    like = jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings)
    return restore_like(model_dir, config, like, verify)


def restore_like(model_dir: str | Path, config: NetworkConfig, like: Any, verify: bool | str = True) -> tuple[int, Any]:
    """:func:`restore_student` onto the shardings of ``like``, a tree of ShapeDtypeStructs; same errors."""
    if not (epath.Path(model_dir) / LATEST).exists():
        raise FileNotFoundError(f"{model_dir} holds no {LATEST} folder: no student was trained there")
    saver = Checkpoints(model_dir, config, verify=verify)
    try:
        newest, best = saver.latest_step(), saver.best_step()
        if newest is not None:
            integrity.check_best_is_there(saver.model_dir, newest, best)
        return saver.restore_params(like) if best is None else saver.restore_best(like)
    finally:
        saver.close()


def _absolute(path: epath.Path) -> epath.Path:
    return path if "://" in str(path) else epath.Path(Path(str(path)).resolve())


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
