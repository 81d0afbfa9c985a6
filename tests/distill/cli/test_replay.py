"""``distill replay`` on a run that was made to diverge by the command line."""

import json
import re

import pytest

from distill.cli import main
from tests_support import write_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_a_diverged_run_is_replayed(tmp_path, capsys):
    write_rows(tmp_path / "train.jsonl", 40)
    given = {
        "FILES": {"train": str(tmp_path / "train.jsonl")}, "VOCABULARY_PATH": "bytes", "VOCAB_SIZE": 384,
        "FIELDS": {"input": "question", "rationale": "why", "label": "answer"}, "TRAIN_STEPS": 50, "LOG_PERIOD": 50,
        "TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 48}, "MAX_DECODE_LEN": 4, "BATCH_SIZE": 8,
        "MODEL_DIR": str(tmp_path / "run"), "LEARNING_RATE": 1e30, "train.train.validation": None, "TEST_SPLIT": None,
        "network.T5Config.num_encoder_layers": 1, "network.T5Config.num_decoder_layers": 1,
        "network.T5Config.embed_dim": 16, "network.T5Config.mlp_dim": 16, "network.T5Config.num_heads": 2,
    }  # fmt: skip
    names = ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")
    bindings = [f"--gin.{name}={value!r}" for name, value in given.items()]
    assert main.main(["train", *(f"--gin_file=gin/{name}.gin" for name in names), *bindings]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    expected = (
        r"distill train: the (loss|gradient's norm) is (nan|inf) at step 2; nothing .* no checkpoint was saved before"
    )
    assert re.match(expected, told)
    assert told.endswith(f"run it again with: distill replay {tmp_path / 'run'}")
    described = json.loads((tmp_path / "run" / "replay" / "step_2.json").read_text())
    assert described["configuration"]["file"] == "config.gin"
    assert main.main(["replay", str(tmp_path / "run"), "--exact", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["state"] == "the initial parameters (no checkpoint is kept from before) and 1 repeated updates"
    assert report["exact"]
    assert report["first_nonfinite"].split()[0] in ("activation", "loss", "gradient")
    assert main.main(["replay", str(tmp_path / "run"), "--step=7"]) == 2
    assert "holds no batch of step 7 in replay/ (steps there: 2)" in capsys.readouterr().err
