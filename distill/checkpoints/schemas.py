"""Schemas of the JSON items of a checkpoint step: keys and types, checked before a value is used."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from distill.checkpoints import storage_errors
from distill.checkpoints.digests import Damaged, unreadable
from distill.model.configs import flat
from distill.validation import quoted

_MAX_BYTES = 64 * 2**20


def read_json(step_folder: epath.Path, item: str) -> dict[str, Any]:
    """A JSON item of a step, checked against its schema.

    Args:
      step_folder: of the step.
      item: ``position``, ``progress``, ``model`` or ``metrics``.

    Raises:
      Damaged: the file is missing, is not JSON, or has a wrong key or type; names the file.
      OSError: the storage cannot read it now.
    """
    path = step_folder / item / ("metrics" if item == "metrics" else "metadata")  # Orbax's names
    try:
        if path.stat().length > _MAX_BYTES:
            raise ValueError(f"it holds more than {_MAX_BYTES} bytes")
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        if isinstance(error, OSError) and storage_errors.of_machine(error):
            raise unreadable(step_folder, error) from error
        reason = "it is missing" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:160]
        raise Damaged(f"checkpoint {step_folder} is damaged: {path} cannot be read: {reason}") from None
    check(item, value, str(path))
    return value


def check(item: str, value: Any, where: str) -> None:
    """Raises :class:`Damaged` unless ``value`` has the schema of the item ``item``."""
    if not isinstance(value, dict):
        raise Damaged(f"{where}: expected a JSON object; got {quoted(value)}")
    _CHECKS[item](value, where)


def _position(value: Mapping[str, Any], where: str) -> None:
    _keys(value, {"seed", "draws", "consumed"}, {"data", "curriculum"}, where)
    if "curriculum" in value:
        _object(value["curriculum"], f"{where}: curriculum")
    _integer(value["seed"], f"{where}: seed")
    _count(value["draws"], f"{where}: draws")
    for task, consumed in _object(value["consumed"], f"{where}: consumed").items():
        _count(consumed, f"{where}: consumed[{task!r}]")
    for task, fingerprint in _object(value.get("data", {}), f"{where}: data").items():
        if not isinstance(fingerprint, str):
            raise Damaged(f"{where}: data[{task!r}] must be text; got {quoted(fingerprint)}")
    if sum(value["consumed"].values()) != value["draws"]:
        raise Damaged(
            f"{where}: draws must be the sum of consumed, {sum(value['consumed'].values())}; got {value['draws']}"
        )


def _progress(value: Mapping[str, Any], where: str) -> None:
    # Other keys are the training loop's own, and must be plain values.
    for name in ("best_step", "stale", "examples", "score_step", "skipped", "validations"):
        if name in value:
            _count(value[name], f"{where}: {name}")
    for name in ("best", "seconds", "score"):
        if name in value and (isinstance(value[name], bool) or not isinstance(value[name], int | float)):
            raise Damaged(f"{where}: {name} must be a number; got {quoted(value[name])}")
    for name in ("higher_is_better", "scores_differ"):
        if not isinstance(value.get(name, True), bool):
            raise Damaged(f"{where}: {name} must be true or false; got {quoted(value[name])}")
    for name in ("validation_rows", "stopped", "reason"):
        if not isinstance(value.get(name), str | None):
            raise Damaged(f"{where}: {name} must be text or null; got {quoted(value[name])}")


def _model(value: Mapping[str, Any], where: str) -> None:
    plain = dict(value)
    sizes = ["vocab_size", "embed_dim", "num_heads", "head_dim", "mlp_dim"]
    if "encoder" in value:  # T5Gemma
        stacks = {name: _object(plain.pop(name, None), f"{where}: {name}") for name in ("encoder", "decoder")}
        plain |= flat(stacks)
        inner = ("num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim")
        sizes = ["vocab_size", "version", *(f"{stack}.{name}" for stack in stacks for name in inner)]
    for name, setting in plain.items():
        if isinstance(setting, list) and all(isinstance(one, str) for one in setting):
            continue
        if not isinstance(setting, bool | int | float | str | None):
            raise Damaged(f"{where}: {name} must be a plain setting; got {quoted(setting)}")
    for name in sizes:
        if name not in plain:
            raise Damaged(f"{where}: {name} is missing")
        _count(plain[name], f"{where}: {name}")


def _metrics(value: Mapping[str, Any], where: str) -> None:
    for name, metric in value.items():
        if isinstance(metric, bool) or not isinstance(metric, int | float):
            raise Damaged(f"{where}: {name} must be a number; got {quoted(metric)}")


_CHECKS = {"position": _position, "progress": _progress, "model": _model, "metrics": _metrics}


def _keys(value: Mapping[str, Any], required: set[str], optional: set[str], where: str) -> None:
    missing, unknown = required - value.keys(), value.keys() - required - optional
    if missing or unknown:
        raise Damaged(
            f"{where}: expected the keys {sorted(required)}; missing {sorted(missing)}, unknown {sorted(unknown)}"
        )


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Damaged(f"{where} must be a JSON object; got {quoted(value)}")
    return value


def _integer(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Damaged(f"{where} must be an integer; got {quoted(value)}")


def _count(value: Any, where: str) -> None:
    _integer(value, where)
    if value < 0:
        raise Damaged(f"{where} must be ≥ 0; got {quoted(value)}")
