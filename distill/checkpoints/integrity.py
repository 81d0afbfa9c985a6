"""Whether a step is whole and of the right model: digests, schemas, arrays, settings; the same answer on every process."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from distill.checkpoints import digests, lost_process, orbax_tree, schemas, storage_errors
from distill.checkpoints.digests import Damaged, unreadable
from distill.model.configs import NetworkConfig, flat

LATEST, BEST, DAMAGED = "checkpoints", "best", "damaged"
_ITEMS = {LATEST: ("state", "position", "progress", "model"), BEST: ("params", "metrics", "model")}
_TEXT_BYTES = 4096


def check_step(folder: epath.Path, verify: bool | str = True) -> None:
    """Raises :class:`Damaged`, with the file and the reason, unless a step is intact; see :func:`reading`."""
    with _begun(folder, verify, threads=8):
        pass


@contextlib.contextmanager
def reading(folder: epath.Path, config: NetworkConfig, verify: bool | str = True) -> Iterator[None]:
    """Checks a step while the ``with`` block restores it. What was restored may be used after the block.

    Digests are compared if the step has them. Steps of earlier versions, and those saved with ``verify=False``, have none:
    Orbax committed them whole, so that a kill cannot have truncated them; their JSON and their list of arrays are checked,
    and a warning reports that the arrays are not.

    In a multi-process run, every process compares a share of the files, before the block; all raise the same error.

    Args:
      folder: of the step, in ``checkpoints`` or ``best``.
      config: the student's; compared with the step's.
      verify: True compares XXH3 digests, or SHA-256 if the step lists no others; ``"sha256"`` compares SHA-256;
        False checks the JSON and the list of arrays only.

    Raises:
      Damaged: the step is damaged; names the file and the reason.
      OSError: the storage cannot read it now.
      ValueError: it is of another model; lists every setting that differs.
    """
    if jax.process_count() > 1:
        _check_together(folder, verify)
        check_same_model(schemas.read_json(folder, "model"), config, f"checkpoint {folder}")
        with damage_named(folder):
            yield
        return
    check = _begun(folder, verify)
    check_same_model(schemas.read_json(folder, "model"), config, f"checkpoint {folder}")
    with check, damage_named(folder):
        yield


def _begun(folder: epath.Path, verify: bool | str, threads: int | None = None) -> Any:
    """A context manager that checks the large files of a step; the rest is checked here."""
    check: Any = contextlib.nullcontext()
    if (digest := digests.chosen(verify)) is not None:
        check = digests.Check(folder, digest, threads=threads)
        if not check.has_digests:
            logging.warning("checkpoint %s has no %s: damage of its arrays cannot be detected", folder, digests.FILE)
    kind = BEST if folder.parent.name == BEST else LATEST
    for item in _ITEMS[kind]:
        if item not in ("state", "params"):
            schemas.read_json(folder, item)
    try:
        orbax_tree.paths(folder / _ITEMS[kind][0])
    except (ValueError, OSError) as error:
        if storage_errors.of_machine(error):
            raise unreadable(folder, error) from error
        raise Damaged(f"checkpoint {folder} is damaged: {' '.join(str(error).split())[:240]}") from None
    return check


def _check_together(folder: epath.Path, verify: bool | str) -> None:
    damage, fault, number, count = "", "", jax.process_index(), jax.process_count()
    try:
        if number == 0:
            _begun(folder, verify)
        if (digest := digests.chosen(verify)) is not None:
            digests.check(folder, digest, share=slice(number, None, count))
    except Damaged as error:
        damage = str(error)
    except Exception as error:
        if not storage_errors.of_machine(error):
            raise
        fault = str(error)
    for kind, own in ((OSError, fault), (Damaged, damage)):
        if found := next((text for text in everyones(own) if text), ""):
            raise kind(found)


def check_best_is_there(model_dir: epath.Path, newest: int, best: int | None) -> None:
    """Raises :class:`Damaged` if the best parameters that the newest checkpoint names, or later ones, are missing.

    Args:
      model_dir: the model directory.
      newest: the step of the newest checkpoint. If its progress is damaged, nothing is compared.
      best: the step of the newest best parameters, or None.
    """
    folder = model_dir / LATEST / str(newest)
    try:
        named = schemas.read_json(folder, "progress").get("best_step", 0)
    except Damaged:
        return
    if named > (best or 0):
        raise Damaged(
            f"{model_dir / BEST / str(named)} is missing: {folder} names it as the best on validation; restore the folder, "
            "or continue the training, which selects a new one"
        )


def set_aside(source: epath.Path, target: epath.Path, error: Damaged) -> None:
    """Moves a damaged step to ``target``, with a warning; process 0 does it, and all wait."""
    if jax.process_index() == 0:
        logging.warning("%s; it is skipped, and moved to %s", error, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rmtree()
        source.rename(target)
    everyones("")


def everyones(text: str) -> list[str]:
    """The texts of all processes, in order; also a barrier."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    encoded = np.zeros(_TEXT_BYTES, np.uint8)
    data = text.encode()[:_TEXT_BYTES]
    encoded[: len(data)] = list(data)
    received = np.asarray(multihost_utils.process_allgather(encoded)).reshape(-1, _TEXT_BYTES)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in received]


@contextlib.contextmanager
def damage_named(folder: epath.Path) -> Iterator[None]:
    """Converts errors of Orbax and TensorStore while they read arrays to :class:`Damaged`.

    A fault of the storage, such as a server that answers 503, is no damage, and becomes an OSError. Nor is a lost process,
    whose error stays.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError, Damaged):
        raise
    except Exception as error:
        if lost_process.cause(error) is not None:
            raise
        if storage_errors.of_machine(error):
            raise unreadable(folder, error) from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"
        raise Damaged(f"checkpoint {folder} cannot be restored: {reason}") from error


# Settings that change how the parameters are used, not the parameters themselves.
_NOT_THE_MODEL = frozenset({"dropout_rate", "dtype", "remat_policy", "attention"})


def check_same_model(saved: Mapping[str, Any], config: NetworkConfig, where: str) -> None:
    """Raises ValueError, listing all settings that differ, unless ``saved`` (JSON dict) is the model of ``config``."""
    mine, saved = flat(json.loads(json.dumps(dataclasses.asdict(config)))), flat(saved)
    names = sorted((set(saved) | set(mine)) - _NOT_THE_MODEL)
    differ = [f"{n}: {saved.get(n)!r} there, {mine.get(n)!r} here" for n in names if saved.get(n) != mine.get(n)]
    if differ:
        raise ValueError(f"{where} is of another model: " + "; ".join(differ))
