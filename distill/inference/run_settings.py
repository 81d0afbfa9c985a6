"""Compares two configurations of a run: which settings may change when it restarts in its directory."""

import dataclasses
import posixpath
from collections.abc import Mapping
from typing import Any

STEPS = ("TRAIN_STEPS", "train.LoopConfig.train_steps")
"""The length of training; may be raised."""

PATIENCE = ("PATIENCE", "train.ValidationConfig.patience")
"""The patience of early stopping; may be raised once it has ended the run."""

# Neither the parameters nor the choice of the best ones depend on these.
_FREE_MACROS = frozenset({
    "ATTENTION", "CACHE_DIR", "CHECKPOINT_DIGESTS", "CHECKPOINT_KEEP", "CHECKPOINT_KEEP_BEST", "CHECKPOINT_KEEP_EVERY",
    "CHECKPOINT_PERIOD", "COMPILER_OPTIONS", "DATA_DIR", "EVAL_BATCH_SIZE", "LOG_PERIOD",
    "LOSS_CHUNK_TOKENS", "MAX_SKIPPED", "MESH", "MODEL_DIR", "NUM_MICROBATCHES", "ON_NONFINITE", "PARAM_GATHER",
    "PROFILE_STEPS", "REMAT_POLICY", "SEQUENCE_PARALLEL", "SPLIT", "STUCK_AFTER_S", "TEST_SPLIT",
    "TRACKERS", "VOCABULARY_PATH",
})  # fmt: skip
_FREE_ARGUMENTS = frozenset({
    "cache_dir", "checkpoints", "chunk_tokens", "compiler_options", "data_dir", "log_period", "max_skipped", "mesh",
    "model_dir", "num_microbatches", "on_nonfinite", "param_gather", "profile_steps", "remat_policy",
    "sequence_parallel", "stuck_after_s", "test_split", "trackers",
})  # fmt: skip
_FREE_CONFIGURABLES = ("CheckpointConfig", "MeshConfig", "vocabularies.load.name")
_PATHS = ("FILES", "jsonl.dataset.files")
_ABSENT = "not set"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One setting whose values differ in two configurations.

    Attributes:
      name: a macro, or ``configurable.argument``.
      before, after: values; None where there is none, see ``is_set``.
      student: whether the trained student depends on it.
    """

    name: str
    before: Any
    after: Any
    student: bool

    def __str__(self) -> str:
        before, after = (_ABSENT if value is None else repr(value) for value in (self.before, self.after))
        return f"{self.name} was {before} and is now {after}"

    @property
    def raises_steps(self) -> bool:
        """Whether it is the number of steps, made larger."""
        numbers = isinstance(self.before, int) and isinstance(self.after, int)
        return self.name in STEPS and numbers and self.after > self.before

    @property
    def raises_patience(self) -> bool:
        """Whether it is the patience, made larger or removed."""
        if self.name not in PATIENCE or not isinstance(self.before, int):
            return False
        return self.after is None or (isinstance(self.after, int) and self.after > self.before)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """The settings that differ, those that the student depends on first.

    Args:
      before, after: bindings by name, as :func:`distill.api.configuration.bindings_of` returns them. A setting
        that is None equals one that is absent: None means "not set" for every macro. So does an argument that
        only one of the two binds, to a macro that is None.
    """
    found = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if name not in before or name not in after:
            old, new = _value(before, name), _value(after, name)
        if old != new:
            found.append(Difference(name, old, new, _changes_the_student(name, old, new)))
    return sorted(found, key=lambda one: not one.student)


def _value(bindings: Mapping[str, Any], name: str) -> Any:
    """The value of a binding; None if it is a macro that is bound to None."""
    value = bindings.get(name)
    macro = value[1:] if isinstance(value, str) and value.startswith("%") else ""
    return None if macro in bindings and bindings[macro] is None else value


def _changes_the_student(name: str, old: Any, new: Any) -> bool:
    if name in _FREE_MACROS or name.rpartition(".")[2] in _FREE_ARGUMENTS:
        return False
    if any(part in name for part in _FREE_CONFIGURABLES):
        return False
    if name in _PATHS and isinstance(old, Mapping) and isinstance(new, Mapping):
        return _names(old) != _names(new)
    return True


def _names(files: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Split -> names of its files, without their folders: those may differ on another machine."""
    lists = {split: given if isinstance(given, list | tuple) else [given] for split, given in files.items()}
    return {split: tuple(posixpath.basename(str(path)) for path in given) for split, given in lists.items()}
