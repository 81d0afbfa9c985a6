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
    from distill.inference.decoder import DecodeConfig
    from distill.inference.evaluation import Evaluation
    from distill.model.config import T5Config
    from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
    from distill.sharding.partitioning import MeshConfig
    from distill.tasks.dataset import Dataset
    from distill.tasks.records import Record, Report
    from distill.training import losses, optimizers
    from distill.training.callbacks import Callback, RunStep, Stop
    from distill.training.state import TrainState

__version__ = "0.1.0"

# Public name → its module, or "module:attribute".
_PUBLIC: dict[str, str] = {
    "Answer": "distill.api.student:Answer",
    "Callback": "distill.training.callbacks:Callback",
    "Dataset": "distill.tasks.dataset:Dataset",
    "DecodeConfig": "distill.inference.decoder:DecodeConfig",
    "Evaluation": "distill.inference.evaluation:Evaluation",
    "MeshConfig": "distill.sharding.partitioning:MeshConfig",
    "Record": "distill.tasks.records:Record",
    "Report": "distill.tasks.records:Report",
    "Run": "distill.api.run:Run",
    "RunStep": "distill.training.callbacks:RunStep",
    "StackConfig": "distill.model.t5gemma_config:StackConfig",
    "Stop": "distill.training.callbacks:Stop",
    "Student": "distill.api.student:Student",
    "T5Config": "distill.model.config:T5Config",
    "T5GemmaConfig": "distill.model.t5gemma_config:T5GemmaConfig",
    "TrainState": "distill.training.state:TrainState",
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
    "Dataset",
    "DecodeConfig",
    "Evaluation",
    "MeshConfig",
    "Record",
    "Report",
    "Run",
    "RunStep",
    "StackConfig",
    "Stop",
    "Student",
    "T5Config",
    "T5GemmaConfig",
    "TrainState",
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
