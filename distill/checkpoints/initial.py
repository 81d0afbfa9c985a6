"""INITIAL_CHECKPOINT_PATH: initial parameters, from a checkpoint of any format."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from distill import terminal
from distill.checkpoints import conversion, gemma_flax, huggingface
from distill.checkpoints.integrity import check_same_model
from distill.checkpoints.weights import Weights
from distill.model.configs import NetworkConfig, family
from distill.model.t5gemma_config import T5GemmaConfig

OURS, HUGGING_FACE, T5X = conversion.DISTILL, conversion.HUGGING_FACE, conversion.T5X


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Errors begin with the setting that gives the path."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (f"INITIAL_CHECKPOINT_PATH={path!r}: {error.args[0]}",)
        raise


def kind_of(path: str) -> str:
    """The format of a checkpoint, as :func:`distill.checkpoints.conversion.kind_of`."""
    with _named(path):
        return conversion.kind_of(path)


def load(path: str, config: NetworkConfig, shardings: Any) -> Any:
    """Parameters for ``config`` from ``path``, placed on ``shardings``; logs a description of the checkpoint.

    Args:
      path: local, ``gs://``, or the name of a model on the Hugging Face hub, also as ``name@revision``.
      config: the student; must have the checkpoint's shape. Its layers may be stacked where the checkpoint's are not, and
        the reverse.
      shardings: a tree of shardings like the parameters.

    Raises:
      FileNotFoundError: ``path`` does not exist.
      ValueError: an unknown format, or a model of another shape; every difference is listed.
    """
    with _named(path), conversion.open_source(path) as source:
        if family(source.config) != family(config):
            raise ValueError(
                f"{path} is a {family(source.config)} network, the student is a {family(config)}: take a model file of "
                f"{family(source.config)} (gin/models), or a checkpoint of {family(config)}"
            )
        terminal.notice(f"starting from the {source.found()}")
        if source.kind == HUGGING_FACE:
            # The source has logged what is not read.
            return huggingface.load_params(path, config, shardings=shardings, notes=False)
        if source.kind == conversion.GEMMA_FLAX and isinstance(config, T5GemmaConfig):
            return gemma_flax.load_params(path, config, shardings=shardings)
        if source.kind == OURS:
            alike = dataclasses.replace(config, scan_layers=source.config.scan_layers)
            saved = json.loads(json.dumps(dataclasses.asdict(source.config)))
            check_same_model(saved, alike, f"checkpoint {path}")
        return Weights(source.checkpoint, config).tree(shardings)
