"""The demo from end to end, in a few steps: its files and its last line."""

import json

import pytest

from distill.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def test_the_demo(tmp_path, capsys):
    grid = {
        "gin_files": ["gin/recipes/demo_student.gin"],
        "axes": {
            "method": {
                "standard": {"bindings": {"FORM": "label", "BATCH_SIZE": 8}},
                "step-by-step": {"bindings": {"FORM": "paired", "BATCH_SIZE": 8}},
            },
            "TRAIN_ROWS": [20, 40],
            "RANDOM_SEED": [0, 1],
        },
        "x": "TRAIN_ROWS",
        "joint_seeds": True,
    }
    (tmp_path / "sweep.json").write_text(json.dumps(grid))
    given = ["demo", "--directory", str(tmp_path / "out"), "--sweep", str(tmp_path / "sweep.json")]
    small = ["--gin.TRAIN_STEPS=4", "--gin.EVAL_PERIOD=4", "--gin.optimizers.linear_decay.warmup_steps=1"]
    sizes = ["--gin.VALIDATION_EXAMPLES=20"]
    assert main.main([*given, *small, *sizes]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["task"] == "demo_world"
    assert last["seeds"] == [0, 1]
    assert set(last["methods"]) == {"standard", "step-by-step"}
    for by_size in last["methods"].values():
        assert set(by_size) == {"20", "40"}
        for found in by_size.values():
            assert 0.0 <= found["accuracy"] <= 1.0
            assert found["accuracy"] == pytest.approx(sum(found["accuracies"]) / 2, abs=1e-3)
            assert found["steps"] == 4
            assert found["seconds"] > 0
    for name in ("results.png", "results.csv", "vocabulary.model"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert (tmp_path / "out" / "pretraining" / "best").exists()

    # Once more: everything is done already.
    assert main.main([*given, *small, *sizes]) == 0
    out = capsys.readouterr().out
    assert "8 runs, 8 done already, 0 to do" in out
    assert json.loads(out.strip().splitlines()[-1]) == last
