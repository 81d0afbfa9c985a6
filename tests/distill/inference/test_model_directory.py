"""What a model directory holds, and what a run may be started again with."""

import dataclasses
import json
import pathlib
import shlex
import subprocess
import sys

import pytest

from distill.api.configuration import bindings_of
from distill.cli import main
from distill.inference import model_directory, run_settings
from distill.inference import student as students
from distill.inference.student import Student
from distill.model.network import T5Config
from distill.sharding.partitioning import MeshConfig
from distill.tools import vocabulary as training
from tests_support import write_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ROOT = pathlib.Path(__file__).resolve().parents[3]
TINY = T5Config(384, 16, 2, 8, 32, 1, 1)
ROWS = students.RowFormat({"input": "question", "label": "answer"}, ("no", "yes"))
STUDENT = Student(TINY, "bytes", 125, input_field="question", mesh=MeshConfig(2, 4, 1), separator="</s>", rows=ROWS)
CONFIG = """from __gin__ import dynamic_registration
LAMBDA = None
LEARNING_RATE = 0.001
TRAIN_STEPS = 30
LOG_PERIOD = 50
FILES = {'test': 'a/test.jsonl', 'train': 'a/train.jsonl'}
DATASET = @jsonl.dataset()
train.LoopConfig.train_steps = %TRAIN_STEPS
"""


def changed(**settings):
    """:data:`CONFIG` with other values."""
    text = CONFIG
    for name, value in settings.items():
        lines = [line for line in text.splitlines() if not line.startswith(f"{name} =")]
        text = "\n".join([*lines, f"{name} = {value!r}"]) + "\n"
    return text


def begin(folder, text):
    there = folder / "config.gin"
    before = bindings_of(there.read_text()) if there.exists() else None
    return model_directory.begin(folder, text, before, bindings_of(text), STUDENT, None)


def test_a_failed_start_is_undone(tmp_path):
    directory = tmp_path / "new" / "runs" / "a"
    with pytest.raises(ValueError, match="bad"), model_directory.undone_on_failure(directory):
        begin(directory, CONFIG)
        (directory / "rows").mkdir()
        (directory / "rows" / "train.jsonl").touch()
        (directory / "checkpoints").mkdir()
        raise ValueError("bad")
    assert not list(tmp_path.iterdir())
    directory.mkdir(parents=True)  # an empty folder of the user's stays
    with pytest.raises(ValueError, match="bad"), model_directory.undone_on_failure(directory):
        begin(directory, CONFIG)
        raise ValueError("bad")
    assert directory.is_dir() and not list(directory.iterdir())


@pytest.mark.parametrize("there", ["before", "logs", "step", "signal"])
def test_files_that_are_needed_stay(tmp_path, there):
    """Files from before, the logs of a training that has begun, a checkpoint; and all files after a signal."""
    error = KeyboardInterrupt if there == "signal" else ValueError
    if there == "before":
        begin(tmp_path, CONFIG)
    with pytest.raises(error), model_directory.undone_on_failure(tmp_path):
        begin(tmp_path, CONFIG)
        made = {"logs": tmp_path / "logs", "step": tmp_path / "checkpoints" / "10"}.get(there, tmp_path)
        made.mkdir(parents=True, exist_ok=True)
        raise error("bad")
    assert (tmp_path / "config.gin").exists()


@pytest.fixture
def run(tmp_path):
    """A directory whose run has trained 10 steps."""
    begin(tmp_path, CONFIG)
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    return tmp_path


def finish(run):
    (run / "result.json").write_text('{"step": 30}')


def test_a_run_is_started_again_with_its_own_settings(run):
    assert begin(run, CONFIG) == []
    finish(run)
    assert begin(run, CONFIG) == [f"{run} is finished; nothing is trained (raise TRAIN_STEPS above 30 to continue)"]
    assert (run / "config.gin").read_text() == CONFIG
    (run / "student.json").unlink()  # of an earlier version
    begin(run, CONFIG)
    assert students.read(run) == STUDENT


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_with_every_difference(run, finished):
    if finished:
        finish(run)
    other = changed(LAMBDA=0.1, LEARNING_RATE=1e-5, TRAIN_STEPS=60, LOG_PERIOD=1)
    with pytest.raises(ValueError, match="run with other settings") as caught:
        begin(run, other)
    told = str(caught.value)
    assert f"{run} holds a {'finished' if finished else 'started'} run" in told
    assert "LAMBDA was not set and is now 0.1" in told
    assert "LEARNING_RATE was 0.001 and is now 1e-05" in told
    assert "LOG_PERIOD" not in told and "TRAIN_STEPS was" not in told
    assert (run / "config.gin").read_text() == CONFIG


def test_a_run_that_is_not_complete_has_a_warning(run):
    whole = model_directory.unfinished(run)
    assert whole == (
        f"the run in {run} is not complete: its newest saved step is 10 of 30; unless it is running now, the same "
        "training command continues it"
    )
    (run / "failure.json").write_text('{"error": "the loss is nan at step 12; replace this point", "attempts": 1}')
    failed = model_directory.unfinished(run)
    why = "has failed (the loss is nan at step 12): its newest saved step is 10 of 30;"
    assert failed.startswith(f"the run in {run} {why}")
    (run / "failure.json").write_text("damaged")
    assert model_directory.unfinished(run) == whole
    (run / "pruned.json").touch()
    assert "was ended by its search before its last step" in model_directory.unfinished(run)
    (run / "config.json").unlink()
    assert model_directory.unfinished(run).endswith("its newest saved step is 10")
    finish(run)
    assert model_directory.unfinished(run) is None


def test_parameters_without_a_run_have_no_warning(model_dir, tmp_path):
    for name in ("config.gin", "config.json", "model.safetensors"):  # of an export
        (tmp_path / name).write_text("{}")
    assert model_directory.unfinished(tmp_path) is None
    assert model_directory.unfinished(model_dir) is None and model_directory.unfinished(tmp_path / "absent") is None


def test_a_run_that_has_trained_nothing_takes_any_settings(tmp_path):
    begin(tmp_path, CONFIG)
    (tmp_path / "checkpoints").mkdir()
    begin(tmp_path, changed(LAMBDA=0.1))
    assert "LAMBDA = 0.1" in (tmp_path / "config.gin").read_text()


def test_settings_that_do_not_change_the_student(run):
    files = {"test": "/b/test.jsonl", "train": "/b/train.jsonl"}
    other = changed(LOG_PERIOD=1, FILES=files)
    [said] = begin(run, other)
    assert "LOG_PERIOD was 50 and is now 1" in said and "FILES was" in said
    assert (run / "config.gin").read_text() == other
    finish(run)
    begin(run, changed(LOG_PERIOD=2))
    assert (run / "config.gin").read_text() == other  # a finished run keeps its own
    with pytest.raises(ValueError, match="FILES was"):
        begin(run, changed(FILES={"train": "a/other.jsonl", "test": "a/test.jsonl"}))


def test_more_steps_go_on_with_a_finished_run(run):
    finish(run)
    more = changed(TRAIN_STEPS=60)
    said = begin(run, more)
    assert said[0] == "continuing a finished run: TRAIN_STEPS was 30 and is now 60"
    assert not (run / "result.json").exists()
    assert json.loads((run / "result.before-60-steps.json").read_text()) == {"step": 30}
    assert (run / "config.gin").read_text() == more
    finish(run)
    with pytest.raises(ValueError, match="TRAIN_STEPS was 60 and is now 30"):
        begin(run, CONFIG)


def test_more_patience_goes_on_with_a_run_that_has_ended_early(run):
    (run / "config.gin").write_text(changed(PATIENCE=2))
    finish(run)
    with pytest.raises(ValueError, match="PATIENCE was 2 and is now 3"):  # it ran to its end
        begin(run, changed(PATIENCE=3))
    (run / "result.json").write_text('{"step": 20, "stopped": "early"}')
    remedy = "raise PATIENCE above 2 or, if a callback has ended it, TRAIN_STEPS above 30 to continue"
    nothing = f"{run} has ended early; nothing is trained ({remedy})"
    other = "settings that have no effect on a finished run differ: LOG_PERIOD was 50 and is now 5"
    assert begin(run, changed(PATIENCE=2, LOG_PERIOD=5)) == [nothing, other]
    for reason, setting in (("callback Flat: it is flat", "TRAIN_STEPS above 30"), ("patience", "PATIENCE above 2")):
        (run / "result.json").write_text(json.dumps({"step": 20, "stopped": "early", "reason": reason}))
        nothing = f"{run} has ended early, by {reason}; nothing is trained (raise {setting} to continue)"
        assert begin(run, changed(PATIENCE=2)) == [nothing]
    with pytest.raises(ValueError, match="PATIENCE was 2 and is now 1"):
        begin(run, changed(PATIENCE=1))
    assert begin(run, changed(PATIENCE=3))[0] == "continuing a finished run: PATIENCE was 2 and is now 3"
    assert (run / "result.before-patience-3.json").exists() and not (run / "result.json").exists()


def test_a_start_is_undone_unless_a_step_was_saved(run, monkeypatch, caplog):
    finish(run)
    for saved in (False, True):
        with pytest.raises(ValueError, match="bad"), model_directory.start_undone_on_failure(run):
            begin(run, changed(TRAIN_STEPS=60))
            if saved:
                (run / "checkpoints" / "40").mkdir()
            raise ValueError("bad")
        assert (run / "result.json").exists() != saved
        assert (run / "result.before-60-steps.json").exists() == saved
        assert (run / "config.gin").read_text() == (changed(TRAIN_STEPS=60) if saved else CONFIG)
    (run / "result.before-60-steps.json").replace(run / "result.json")

    def full(path, content):
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="bad"), model_directory.start_undone_on_failure(run):
        begin(run, changed(TRAIN_STEPS=90))
        monkeypatch.setattr(model_directory.atomic_files, "replace", full)
        raise ValueError("bad")
    assert (run / "result.json").exists()  # renamed back, which needs no space
    assert f"{run} could not be left as it was before this start" in caplog.text


def test_another_vocabulary_under_the_same_path_is_refused(run):
    with pytest.raises(ValueError, match=r"the vocabulary was \('bytes', 125, ''\) and is now \('bytes', 0, ''\)"):
        other = dataclasses.replace(STUDENT, vocabulary_extra_ids=0)
        model_directory.begin(run, CONFIG, bindings_of(CONFIG), bindings_of(CONFIG), other, None)


def test_only_the_first_process_writes(tmp_path):
    given = (tmp_path / "x", CONFIG, None, bindings_of(CONFIG), STUDENT, None)
    model_directory.begin(*given, writes=False)
    assert not (tmp_path / "x").exists()


def test_differences_are_of_values():
    found = run_settings.differences(
        bindings_of(CONFIG), bindings_of(CONFIG.replace("@jsonl.dataset()", "@svamp.dataset()"))
    )
    assert [str(one) for one in found] == ["DATASET was '@jsonl.dataset()' and is now '@svamp.dataset()'"]
    assert run_settings.differences({"A": None}, {}) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A student trained by the command in a separate folder, by relative paths, with a SentencePiece vocabulary."""
    folder = tmp_path_factory.mktemp("home")
    write_rows(folder / "train.jsonl", 40)
    write_rows(folder / "test.jsonl", 8, start=40)
    text = [json.loads(line)["question"] + " [label] [rationale] plus is" for line in (folder / "train.jsonl").open()]
    (folder / "sp.model").write_bytes(training.train(text * 4, 60))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main.main(["train", *command("runs/a")]) == 0
    return folder


def command(model_dir, *more):
    files = ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")
    settings = {
        "FILES": '{"train": "train.jsonl", "test": "test.jsonl"}',
        "FIELDS": '{"input": "question", "rationale": "why", "label": "answer"}',
        "VOCABULARY_PATH": "sp.model", "VOCAB_SIZE": 128, "TRAIN_STEPS": 2, "EVAL_PERIOD": 2, "LOG_PERIOD": 1,
        "TASK_FEATURE_LENGTHS": '{"inputs": 32, "targets": 32}', "MAX_DECODE_LEN": 4, "MODEL_DIR": model_dir,
        "MESH": "@partitioning.MeshConfig()", "partitioning.MeshConfig.data": 1,
    }  # fmt: skip
    given = [f"--gin_file=gin/{name}.gin" for name in files]
    return [*given, *(f"--gin.{name}={value}" for name, value in settings.items()), *more]


def test_a_model_directory_is_usable_from_anywhere(trained, tmp_path, monkeypatch, capsys):
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    moved = tmp_path / "moved"
    (trained / "runs" / "a").rename(moved)
    (trained / "sp.model").rename(trained / "gone.model")
    try:
        pathlib.Path("x.jsonl").write_text('{"question": "2 and 3?"}\n')
        assert main.main(["infer", f"--model_dir={moved}", "--input=x.jsonl", "--output=y.jsonl"]) == 0
        assert set(json.loads(pathlib.Path("y.jsonl").read_text())) == {"line", "label", "score"}
        assert main.main(["export", f"--model_dir={moved}", "--output=z", "--format=hf"]) == 0
        assert (away / "z" / "tokenizer.json").exists()
        capsys.readouterr()
        assert main.main(["eval", f"--model_dir={moved}"]) == 0
        told = capsys.readouterr()
        assert "test accuracy: " in told.out
        assert "rows of split 'test' have the input of a training row" in told.err
    finally:
        moved.rename(trained / "runs" / "a")
        (trained / "gone.model").rename(trained / "sp.model")


def test_a_directory_on_a_read_only_file_system(trained, tmp_path):
    """``infer`` and ``eval --output`` write nothing into the model directory."""
    model_dir = trained / "runs" / "a"
    mount = f"mount --bind {model_dir} {model_dir} && mount -o remount,ro,bind {model_dir}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine does not allow mounts")
    (tmp_path / "x.jsonl").write_text('{"question": "2 and 3?"}\n')
    score = ["eval", f"--model_dir={model_dir}"]
    infer = ["infer", f"--model_dir={model_dir}", f"--input={tmp_path}/x.jsonl", f"--output={tmp_path}/y.jsonl"]
    commands = [infer, [*score, f"--output={tmp_path}/p"], score]
    # One process for the three, which imports everything once; its exit code is that of the first that fails.
    program = f"import sys; from distill.cli.main import main; sys.exit(next(filter(None, map(main, {commands!r})), 0))"
    python = f"PYTHONPATH={ROOT} {sys.executable} -c {shlex.quote(program)}"
    script = f"{mount} && ! touch {model_dir}/x && {python}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert set(json.loads((tmp_path / "y.jsonl").read_text())) == {"line", "label", "score"}
    assert (tmp_path / "p" / "jsonl_label_test.jsonl").exists() and "test accuracy: " in done.stdout
    assert done.returncode != 0 and "--output names another folder" in done.stderr


def test_a_folder_is_served_without_running_what_it_says(trained, tmp_path, capsys):
    """``infer`` and ``export`` read data; the gin file beside it could be anything."""
    config = trained / "runs" / "a" / "config.gin"
    before = config.read_text()
    try:
        config.write_text(f"import os\nX = @os.system()\nos.system.command = 'touch {tmp_path}/ran'\n")
        (tmp_path / "x.jsonl").write_text('{"question": "2 and 3?"}\n')
        given = [f"--model_dir={trained / 'runs' / 'a'}"]
        rows = [f"--input={tmp_path / 'x.jsonl'}", f"--output={tmp_path / 'y.jsonl'}"]
        assert main.main(["infer", *given, *rows]) == 0
        assert main.main(["export", *given, f"--output={tmp_path / 'hf'}"]) == 0
    finally:
        config.write_text(before)
    assert not (tmp_path / "ran").exists()


def test_train_again_in_a_finished_directory(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    config = (trained / "runs/a/config.gin").read_text()
    capsys.readouterr()
    assert main.main(["train", *command("runs/a", "--gin.LAMBDA=0.1", "--gin.TRAIN_STEPS=3")]) == 2
    told = capsys.readouterr().err
    assert "holds a finished run with other settings" in told and "LAMBDA was not set and is now 0.1" in told
    assert (trained / "runs/a/config.gin").read_text() == config
    # A restart that fails leaves the run finished, with its result and configuration.
    names = ("result.json", "config.gin", "config.json", "student.json", "vocabulary.model")
    before = {name: (trained / "runs/a" / name).read_bytes() for name in names}
    rows = (trained / "train.jsonl").read_text()
    (trained / "train.jsonl").write_text(rows.replace("plus", "and", 1))
    assert main.main(["train", *command("runs/a", "--gin.TRAIN_STEPS=4")]) == 2
    assert "have changed since the checkpoint was saved" in capsys.readouterr().err
    assert main.main(["train", *command("runs/a")]) == 2
    said = capsys.readouterr().err
    assert "runs/a is finished, and its train rows have changed since it was trained: restore" in said
    assert "nothing is trained" not in said
    assert not list((trained / "runs/a").glob("result.before*"))
    assert {name: (trained / "runs/a" / name).read_bytes() for name in names} == before
    (trained / "train.jsonl").write_text(rows)
    assert main.main(["train", *command("runs/a", "--gin.TRAIN_STEPS=4")]) == 0
    assert "continuing a finished run: TRAIN_STEPS was 2 and is now 4" in capsys.readouterr().err
    assert json.loads((trained / "runs/a/result.json").read_text())["step"] == 4
    assert json.loads((trained / "runs/a/result.before-4-steps.json").read_text())["step"] == 2
