"""Which parameters a run trains: all, all except frozen ones, or low-rank adapters alone.

Gradients are taken with respect to the trained parameters, and only these have optimizer state. A frozen parameter is a
constant in the step.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from distill.model import lora as adapters
from distill.model.configs import NetworkConfig
from distill.model.lora import Lora
from distill.model.parameters import Params, flatten, param_shapes, unflatten

__all__ = ["Lora", "Trainable", "described", "joined", "remark", "trained_count"]


@dataclasses.dataclass(frozen=True)
class Trainable:
    """The parameters that are trained. At least one attribute is not None.

    Attributes:
      lora: adapters to train; None: there are none.
      frozen: regular expressions; a parameter whose '/'-joined path contains a match is not trained. None: with ``lora``,
        everything except the adapters. Adapters are always trained; the kernels that they adapt never are.

    Raises:
      ValueError: both are None, or ``frozen`` is empty without ``lora``.
    """

    lora: Lora | None = None
    frozen: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.frozen is not None:
            object.__setattr__(self, "frozen", adapters.patterns("FROZEN", self.frozen))
        if self.lora is None and not self.frozen:
            raise ValueError("Trainable needs lora or frozen patterns; without both, every parameter is trained")

    def check(self, config: NetworkConfig) -> None:
        """Raises ValueError unless every pattern matches parameters of the network and some parameter is trained."""
        _check(self, config)

    def prepared(self, params: Params, rng: jax.Array) -> Params:
        """Returns ``params`` with the adapters, if there are any. A pure function."""
        return params if self.lora is None else adapters.with_adapters(params, self.lora, rng)

    def names(self, params: Mapping[str, Any]) -> frozenset[str]:
        """Returns the paths of the trained parameters in ``params``, which contain the adapters. Reads paths only."""
        paths = list(flatten(params))
        base = [path for path in paths if not adapters.of_adapters(path)]
        trained = {path for path in paths if adapters.is_adapter(path)}
        if self.frozen is None:
            return frozenset(trained)
        still = adapters.matched("FROZEN", self.frozen, base)
        still |= set() if self.lora is None else set(self.lora.kernels(base))
        return frozenset(trained | (set(base) - still))

    def part(self, tree: Params) -> Params:
        """Returns the subtree of the trained parameters. ``tree`` has the structure of parameters with adapters."""
        names = self.names(tree)
        return unflatten({path: leaf for path, leaf in flatten(tree).items() if path in names})


def joined(params: Params, part: Params) -> Params:
    """Returns ``params`` with its leaves replaced by those of the subtree ``part``."""
    return unflatten({**flatten(params), **flatten(part)})


def trained_count(trainable: Trainable | None, params: Mapping[str, Any]) -> int:
    """Returns the number of trained parameters."""
    names = None if trainable is None else trainable.names(params)
    return sum(leaf.size for path, leaf in flatten(params).items() if names is None or path in names)


def described(trainable: Trainable | None, params: Mapping[str, Any]) -> str:
    """Returns the part of a log line that gives the number of trained parameters; empty if all are trained."""
    if trainable is None:
        return ""
    of = "" if trainable.lora is None else f" (LoRA of rank {trainable.lora.rank})"
    return f"{trained_count(trainable, params):,} trained{of}, "


def remark(trainable: Trainable | None, initial_checkpoint_path: str | None) -> str | None:
    """Returns a warning if a run that starts from random parameters trains only a part of them; else None."""
    if trainable is None or initial_checkpoint_path is not None:
        return None
    setting = "FROZEN" if trainable.lora is None else "LORA_RANK"
    return f"{setting} leaves random parameters untrained: INITIAL_CHECKPOINT_PATH=… starts from a trained student"


@functools.lru_cache(maxsize=32)
def _check(trainable: Trainable, config: NetworkConfig) -> None:
    # The key is made inside the trace: the mesh in use may be of a topology that executes nothing.
    shapes = jax.eval_shape(lambda base: trainable.prepared(base, jax.random.key(0)), param_shapes(config))
    if not trainable.names(shapes):
        raise ValueError(f"FROZEN={trainable.frozen} matches every parameter; nothing would be trained: leave some out")
