"""INITIAL_CHECKPOINT_PATH: parameters to start from, whatever format they are in."""

import logging
from typing import Any

import jax
from etils import epath

from distill import checkpoints
from distill.interop import huggingface
from distill.network import T5Config, param_shapes

OURS, HUGGING_FACE, T5X = "distill", "Hugging Face", "T5X"


def kind_of(path: str) -> str:
    """Which format lies at ``path``: ``distill`` (a model directory), ``Hugging Face`` (a folder or hub name) or ``T5X``.

    Raises:
      FileNotFoundError: a path that is not there and cannot be a hub name.
      ValueError: a folder of no known format.
    """
    where = epath.Path(path)
    if (where / checkpoints.BEST).exists() or (where / checkpoints.LATEST).exists():
        return OURS
    if (where / "config.json").exists():
        return HUGGING_FACE
    if (where / "checkpoint").exists() or (where / "state").exists() or (where / "_METADATA").exists():
        return T5X
    if where.exists():
        raise ValueError(
            f"{path} is no checkpoint: expected a model directory of this program ({checkpoints.LATEST}/, "
            f"{checkpoints.BEST}/), a Hugging Face folder (config.json) or a T5X checkpoint (a file 'checkpoint')"
        )
    if "://" not in path and path.count("/") <= 1 and not path.startswith((".", "/", "~")):
        return HUGGING_FACE
    raise FileNotFoundError(f"no checkpoint at {path}")


def load(path: str, config: T5Config, shardings: Any) -> Any:
    """Parameters for ``config`` from ``path``, laid out on ``shardings``.

    Args:
      path: local, ``gs://``, or the name of a model on the Hugging Face hub.
      config: the student to be; must have the checkpoint's shape.
      shardings: a tree of shardings like the parameters.

    Raises:
      FileNotFoundError: nothing there.
      ValueError: an unknown format, or a model of another shape; every difference is listed.
    """
    kind = kind_of(path)
    logging.warning("starting from the %s checkpoint %s", kind, path)
    if kind == OURS:
        return _ours(path, config, shardings)
    if kind == HUGGING_FACE:
        return huggingface.load_params(path, config, shardings=shardings)
    from distill.interop import t5x_checkpoints

    return t5x_checkpoints.load_params(path, config, shardings=shardings)


def _ours(path: str, config: T5Config, shardings: Any) -> Any:
    shapes = param_shapes(config)
    like = jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings)
    step, params = checkpoints.restore_like(path, config, like)
    logging.warning("its parameters are of step %d", step)
    return params
