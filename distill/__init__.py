"""Distilling Step-by-Step in JAX: small T5 students from the answers and reasoning of a large teacher."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name → "module" or "module:attribute". Loaded at first use.
_PUBLIC: dict[str, str] = {"losses": "distill.training.losses", "optimizers": "distill.training.optimizers"}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
