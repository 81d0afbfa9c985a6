"""The demo from end to end, in a few steps: its files and its last line."""

import json
import pathlib
import re

import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2

from distill import exit_codes
from distill.cli import main
from distill.experiments import demo, sweep
from distill.tasks import demo_world, plain_vocabularies
from distill.tools import vocabulary

ROOT = pathlib.Path(__file__).resolve().parents[3]
BEFORE = {"FORM": "label", "BATCH_SIZE": 8, "TRAIN_STEPS": 1, "EVAL_PERIOD": 1, "LEARNING_RATE": 1e-9}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def test_the_demo(tmp_path, capsys):
    grid = {
        "gin_files": ["gin/recipes/demo_student.gin"],
        "axes": {
            "method": {
                "before distillation": {"bindings": BEFORE},
                "standard": {"bindings": {"FORM": "label", "BATCH_SIZE": 8}},
                "step-by-step": {"bindings": {"FORM": "paired", "BATCH_SIZE": 8}},
            },
            "TRAIN_ROWS": {"values": [20, 40], "when": {"method": ["standard", "step-by-step"]}},
            "RANDOM_SEED": [0, 1],
        },
        "x": "TRAIN_ROWS",
        "joint_seeds": True,
    }
    (tmp_path / "sweep.json").write_text(json.dumps(grid))
    given = ["demo", "--directory", str(tmp_path / "out"), "--sweep", str(tmp_path / "sweep.json")]
    small = ["--gin.TRAIN_STEPS=4", "--gin.EVAL_PERIOD=4", "--gin.optimizers.linear_decay.warmup_steps=1"]
    sizes = [f"--gin.network.T5Config.{size}" for size in ("embed_dim=16", "num_heads=2", "head_dim=8", "mlp_dim=16")]
    sizes += [f"--gin.network.T5Config.num_{part}_layers=1" for part in ("encoder", "decoder")]
    sizes += ["--gin.demo_world.dataset.validation_rows=20", "--gin.demo_world.dataset.test_rows=20"]
    sizes += ["--gin.demo_world.pretraining.train_rows=200", "--gin.demo_world.pretraining.validation_rows=20"]
    sizes += ["--gin.partitioning.MeshConfig.data=1", "--gin.EVAL_BATCH_SIZE=20"]
    assert main.main([*given, *small, *sizes]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["task"] == "demo_world"
    assert last["seeds"] == [0, 1]
    before = last["methods"].pop("before distillation")
    assert set(last["methods"]) == {"standard", "step-by-step"}
    assert set(before) == {"any"} and before["any"]["steps"] == 1
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
    for suffix in ("html", "md", "csv", "png"):
        assert (tmp_path / "out" / f"report.{suffix}").stat().st_size > 1000
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert page.startswith("# Answers with and without the teacher's reasons")
    start = 100 * before["any"]["accuracy"]
    assert f"\nbefore distillation {start:.1f} %\n" in page and re.search(r"\nteacher \d+\.\d %\n", page)
    assert "| standard | standard, TRAIN\\_ROWS 20 | 20 |" in page, "the table of accuracy against training rows"

    # Once more: everything is done already.
    assert main.main([*given, *small, *sizes]) == 0
    out = capsys.readouterr().out
    assert "10 runs, 10 done already, 0 to do" in out
    again = json.loads(out.strip().splitlines()[-1])
    assert again["methods"].pop("before distillation") == before and again == last


def test_files_of_other_programs_in_the_folder_are_kept_and_not_read(tmp_path, capsys):
    for name, why in {
        "results.csv": "holds no sweep, but results.csv, which the results would replace; move it away, or give a new",
        "report.md": "holds no sweep, but report.md, which the results would replace",
        "vocabulary.model": "vocabulary.model exists, and is not the vocabulary of the demo; give a new folder, such as ",
    }.items():
        (tmp_path / name).write_text("mine")
        assert main.main(["demo", f"--directory={tmp_path}"]) == exit_codes.MISTAKE
        assert why in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_the_shipped_demos_score_the_students_before_distillation():
    for name in ("demo", "demo_published"):
        grid = sweep.read(ROOT / f"gin/sweeps/{name}.yaml", "out")
        runs = [run for run in grid.runs() if run.values["method"] == "before distillation"]
        assert len(runs) == len(grid.seeds()), "one amount of data"
        assert all({"TRAIN_STEPS = 1", "LEARNING_RATE = 1e-09"} <= set(run.bindings) for run in runs)
        assert grid.start is not None and grid.start.demo


def test_the_vocabulary_can_be_exported_and_encodes_as_one_of_whole_words(tmp_path):
    """transformers has no tokenizer for SentencePiece's models of the type ``word``, whose ids these are."""
    texts = list(demo_world.vocabulary_texts())
    words = vocabulary.train(texts, demo_world.VOCABULARY_SIZE, model_type="word", exact_size=False)
    written = plain_vocabularies.read(demo.write_vocabulary(tmp_path))
    model = sentencepiece_model_pb2.ModelProto.FromString(written.sp_model)
    assert model.trainer_spec.model_type == model.trainer_spec.UNIGRAM
    whole = plain_vocabularies.SentencePiece(words)
    draw = np.random.default_rng(0)
    asked = [
        demo_world.ask(draw, nouns) for nouns in (demo_world.WORLD.familiar, demo_world.WORLD.new) for _ in range(100)
    ]
    for text in (*texts, *(f"[label] {one.text}" for one in asked), *(one.answer for one in asked)):
        assert written.encode(text) == whole.encode(text)
