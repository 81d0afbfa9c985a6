"""Distilling Step-by-Step in JAX: small T5 students from the answers and reasoning of a large teacher.

student = distill.train(rows, model="t5_1_1_small", initial="google/t5-v1_1-small", directory="runs/mine")
student.answer(["…"], rationale=True)

Names are imported when they are first used, so ``import distill`` imports neither JAX nor TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.api.evaluation import evaluate
    from distill.api.rows import read, register
    from distill.api.run import Run, from_gin
    from distill.api.student import Answer, Student, load
    from distill.api.training import train
    from distill.model.config import T5Config
    from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
    from distill.tasks.records import Record
    from distill.training import losses, optimizers
    from distill.training.callbacks import Callback, Stop

__version__ = "0.1.0"

# Public name → its module, or "module:attribute".
_PUBLIC: dict[str, str] = {
    "Answer": "distill.api.student:Answer",
    "Callback": "distill.training.callbacks:Callback",
    "Record": "distill.tasks.records:Record",
    "Run": "distill.api.run:Run",
    "StackConfig": "distill.model.t5gemma_config:StackConfig",
    "Stop": "distill.training.callbacks:Stop",
    "Student": "distill.api.student:Student",
    "T5Config": "distill.model.config:T5Config",
    "T5GemmaConfig": "distill.model.t5gemma_config:T5GemmaConfig",
    "evaluate": "distill.api.evaluation:evaluate",
    "from_gin": "distill.api.run:from_gin",
    "load": "distill.api.student:load",
    "losses": "distill.training.losses",
    "optimizers": "distill.training.optimizers",
    "read": "distill.api.rows:read",
    "register": "distill.api.rows:register",
    "train": "distill.api.training:train",
}

__all__ = [
    "Answer",
    "Callback",
    "Record",
    "Run",
    "StackConfig",
    "Stop",
    "Student",
    "T5Config",
    "T5GemmaConfig",
    "__version__",
    "evaluate",
    "from_gin",
    "load",
    "losses",
    "optimizers",
    "read",
    "register",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'distill' has no attribute {name!r}; it has {', '.join(sorted(_PUBLIC))}")
    module, _, attribute = _PUBLIC[name].partition(":")
    found = importlib.import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
