"""A training that takes seconds: sums to be answered, a student of one layer each, and the environment of its processes."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")


def environment(cache: pathlib.Path) -> dict[str, str]:
    """For processes on the CPU that share compiled programs."""
    return {
        "JAX_PLATFORMS": "cpu", "DISTILL_COMPILATION_CACHE": str(cache), "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }  # fmt: skip


def write_rows(path: pathlib.Path, number: int, start: int = 0) -> None:
    """Every fifth row lacks its rationale."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(start, start + number):
            a, b = i % 7, (i // 7) % 5
            row = {"question": f"{a} and {b}?", "answer": str(a + b)}
            if i % 5 != 4:
                row["why"] = f"{a} plus {b} is {a + b}."
            file.write(json.dumps(row) + "\n")


@dataclasses.dataclass(frozen=True)
class SmallRun:
    """Arguments of ``distill train`` for a folder that holds ``train.jsonl`` and ``test.jsonl``.

    Attributes:
      folder: of the rows.
    """

    folder: pathlib.Path

    def write(self) -> "SmallRun":
        """Writes the rows."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_rows(self.folder / "train.jsonl", 40)
        write_rows(self.folder / "test.jsonl", 8, start=50)
        return self

    def arguments(self, model_dir: str | os.PathLike[str], **changes: Any) -> list[str]:
        """The flags of a run of 60 steps, about six epochs, with a checkpoint every five steps."""
        bindings: Mapping[str, Any] = {
            "FILES": {split: str(self.folder / f"{split}.jsonl") for split in ("train", "test")},
            "FIELDS": {"input": "question", "rationale": "why", "label": "answer"},
            "VOCABULARY_PATH": "bytes", "VOCAB_SIZE": 384, "TRAIN_STEPS": 60, "EVAL_PERIOD": 60, "LOG_PERIOD": 5,
            "TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 48}, "MAX_DECODE_LEN": 4, "EVAL_BATCH_SIZE": 8,
            "network.T5Config.num_encoder_layers": 1, "network.T5Config.num_decoder_layers": 1,
            "network.T5Config.embed_dim": 16, "network.T5Config.mlp_dim": 16, "network.T5Config.num_heads": 2,
            "BATCH_SIZE": 8, "DROPOUT_RATE": 0.1, "CHECKPOINT_PERIOD": 5, "MODEL_DIR": str(model_dir),
            **changes,
        }  # fmt: skip
        files = [f"--gin_file={ROOT}/gin/{name}.gin" for name in FILES]
        return files + [f"--gin.{name}={value!r}" for name, value in bindings.items()]
