"""``distill train``, ``cache`` and ``config``: what they print and their exit codes."""

import pytest

from distill import exit_codes, locking
from distill.api.run import Run
from distill.cli import main, training
from distill.training.config import TrainResult


def test_two_caches_of_one_output(tmp_path, train_command, capsys, caplog):
    given = ["cache", *(argument for argument in train_command[1:] if "MODEL_DIR" not in argument), "--output"]
    output = tmp_path / "cached"
    with locking.held(locking.of_output(output), "cached"):
        assert main.main([*given, str(output)]) == 2
    assert "cached is in use by this process" in capsys.readouterr().err
    assert not output.exists()
    assert main.main([*given, str(output)]) == 0
    assert (output / "manifest.json").exists()
    assert not list(tmp_path.glob("*.lock*"))
    wanted = "validation rows are a part of the training rows, so a training from this cache reads the files of split"
    assert wanted in caplog.text
    caplog.clear()
    rows = str(tmp_path / "train.jsonl")
    separate = f"--gin.FILES={dict.fromkeys(('train', 'validation'), rows)!r}"
    assert main.main([*given, str(tmp_path / "other"), separate]) == 0
    assert wanted not in caplog.text


def test_the_resolved_configuration_is_printed_and_configures_the_same_run(train_command, tmp_path, capsys):
    assert main.main(["config", *train_command[1:]]) == 0
    text = capsys.readouterr().out
    assert "TRAIN_STEPS = 2000\n" in text and "network.T5Config.embed_dim = 16\n" in text
    (tmp_path / "whole.gin").write_text(text)
    assert main.main(["config", f"--gin_file={tmp_path / 'whole.gin'}"]) == 0
    assert capsys.readouterr().out == text
    assert not (tmp_path / "run").exists()


def test_a_missing_macro_is_named_by_config_and_train(train_command, capsys):
    given = [word for word in train_command[1:] if not word.startswith("--gin.TRAIN_STEPS")]
    for name in ("config", "train"):
        assert main.main([name, *given, "--gin.TRAIN_STEPS=%gin.REQUIRED"]) == exit_codes.MISTAKE
        assert "TRAIN_STEPS is required by the command line" in capsys.readouterr().err


def test_config_needs_no_model_directory_and_train_does(train_command, tmp_path, capsys):
    given = [word for word in train_command[1:] if not word.startswith("--gin.MODEL_DIR")]
    assert main.main(["train", *given]) == exit_codes.MISTAKE
    assert "MODEL_DIR is used by gin/runs/train.gin" in capsys.readouterr().err
    assert main.main(["config", *given]) == 0
    lacking, said = capsys.readouterr()
    assert "MODEL_DIR is not set; `distill train` needs it" in said
    assert "MODEL_DIR = " not in lacking and "train.train.model_dir = %MODEL_DIR" in lacking.replace(" \\\n    ", " ")
    (tmp_path / "whole.gin").write_text(lacking)
    where = next(word for word in train_command if word.startswith("--gin.MODEL_DIR"))
    assert main.main(["config", f"--gin_file={tmp_path / 'whole.gin'}", where]) == 0
    whole = capsys.readouterr().out
    assert [line for line in whole.splitlines() if not line.startswith("MODEL_DIR = ")] == lacking.splitlines()


@pytest.mark.parametrize(
    ("stopped", "code", "out", "err"),
    [
        (None, exit_codes.DONE, "test accuracy: 0.5000\n", "--split=validation\n"),
        ("early", exit_codes.DONE, "test accuracy: 0.5000\n", "--split=validation\n"),
        ("SIGTERM", exit_codes.STOPPED, "", f"stopped by SIGTERM at step 8; {exit_codes.CONTINUE}\n"),
    ],
)
def test_the_end_of_a_run_as_output_and_exit_code(train_command, monkeypatch, capsys, stopped, code, out, err):
    result = TrainResult(8, stopped, 8, 0.5, {"accuracy": 0.5}, 1.0)
    monkeypatch.setattr(Run, "run", lambda self, **given: result)
    assert main.main(train_command) == code
    said = capsys.readouterr()
    assert said.out == out and said.err.endswith(err)


def test_progress_of_a_cache_is_printed_every_few_seconds(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    loud, quiet = training._CacheProgress(quiet=False), training._CacheProgress(quiet=True)
    for at, done in ((104.0, 10), (105.0, 20), (124.0, 30), (125.0, 40)):
        now[0] = at
        loud("sums_label", "train", done, 1000)
        quiet("sums_label", "train", done, 1000)
    said = capsys.readouterr().err
    assert said == "sums_label train: 20 of 1,000 rows\nsums_label train: 40 of 1,000 rows\n"
