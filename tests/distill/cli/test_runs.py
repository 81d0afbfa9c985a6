"""The configuration and the processes of a run, as the commands share them."""

import argparse
import json
import signal

import gin
import jax
import pytest

from distill.api import configuration
from distill.cli import coordinator, runs
from distill.inference import student
from distill.training import train

FILES = [f"gin/{name}.gin" for name in ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")]


def options(**changes):
    plain = {
        "gin_file": [], "gin_bindings": [], "gin_search_paths": "", "gin_module": [], "model_dir": None,
        "multiprocess": False, "coordinator_address": None, "num_processes": None, "process_id": None,
        "heartbeat_timeout_seconds": 7, "command": "train",
    }  # fmt: skip
    return argparse.Namespace(**plain | changes)


@pytest.fixture(autouse=True)
def _no_configuration():
    yield
    with gin.unlock_config():
        gin.clear_config()


def test_files_bindings_and_folders_configure_a_run(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.gin").write_text("BATCH_SIZE = 5\nTRAIN_STEPS = 6\n")
    given = ["VOCABULARY_PATH = 'bytes'", "MODEL_DIR = 'x'", "FILES = {'train': 'a.jsonl'}", "TRAIN_STEPS = 7"]
    runs.parse_configuration(
        options(gin_file=[*FILES, "own.gin"], gin_bindings=given, gin_search_paths=f"{tmp_path},{tmp_path / 'mine'}")
    )
    arguments = configuration.arguments_of(train.train)
    assert arguments["loop"].train_steps == 7  # a binding overrides a file
    assert arguments["data"].batch_size == 5
    assert arguments["model_dir"] == "x"


def test_a_model_directory_is_configured_as_it_was_trained(tmp_path):
    """Its ``config.gin`` comes first, so that files and bindings of the command override it."""
    trained = ["VOCABULARY_PATH = 'bytes'", "MODEL_DIR = '/old'", "FILES = {'train': 'a.jsonl'}", "TRAIN_STEPS = 3"]
    runs.parse_configuration(options(gin_file=FILES, gin_bindings=[*trained, "BATCH_SIZE = 5"]))
    (tmp_path / runs.CONFIG).write_text(configuration.resolved())
    given = options(model_dir=str(tmp_path), gin_bindings=["TRAIN_STEPS = 7"])
    runs.parse_configuration(given)
    arguments = configuration.arguments_of(train.train)
    assert (arguments["loop"].train_steps, arguments["data"].batch_size) == (7, 5)
    assert arguments["model_dir"] == str(tmp_path)
    assert given.gin_bindings == ["TRAIN_STEPS = 7"]  # the caller's list is unchanged


def test_a_folder_that_was_not_trained_is_refused(tmp_path):
    given = options(model_dir=str(tmp_path), command="eval")
    for refuse in (runs.check_directories, runs.parse_configuration):
        with pytest.raises(ValueError, match=r"holds no config\.gin; is it a trained model's"):
            refuse(given)
    serving = options(model_dir=str(tmp_path), command="export")  # which reads student.json
    with pytest.raises(FileNotFoundError, match=r"holds no student\.json; is it a trained model's directory"):
        runs.check_directories(serving)
    (tmp_path / runs.STUDENT).write_text("{}")
    runs.check_directories(serving)
    assert runs.STUDENT == student.FILE
    given = options(model_dir=str(tmp_path), command="infer", input=str(tmp_path / "studnt.json"))
    with pytest.raises(FileNotFoundError, match=r"studnt\.json is missing \(rows to answer\); student\.json is there"):
        runs.check_directories(given)


def test_directories_of_a_sweep_and_of_a_run_that_failed(tmp_path):
    run = tmp_path / "RATE-1"
    (run / "checkpoints").mkdir(parents=True)
    (tmp_path / "sweep.json").write_text("{}")
    (run / runs.STUDENT).write_text("{}")
    (run / runs.CONFIG).write_text("")
    for command in ("eval", "infer"):
        given = options(model_dir=str(tmp_path), command=command, input=str(run / runs.STUDENT))
        with pytest.raises((ValueError, FileNotFoundError), match=r"directory of a sweep; give .*, such as .*/RATE-1$"):
            runs.check_directories(given)
    failed = options(model_dir=str(run), command="eval")
    runs.check_directories(failed)
    (run / "failure.json").write_text(json.dumps({"error": "the loss is nan at step 2; replace it", "attempts": 1}))
    with pytest.raises(
        ValueError, match=r"failed before its first checkpoint \(the loss is nan at step 2\); give another"
    ):
        runs.check_directories(failed)
    (run / "checkpoints" / "10").mkdir()
    runs.check_directories(failed)


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({}, None),
        ({"multiprocess": True}, (None, None, None)),
        ({"process_id": 0}, (None, None, 0)),
        (
            {"coordinator_address": "host:1", "num_processes": 2, "process_id": 1},
            ("host:1", 2, 1),
        ),
    ],
)
def test_processes_are_joined_only_if_the_command_names_several(monkeypatch, changes, given):
    calls = []

    def initialize(*arguments, initialization_timeout, heartbeat_timeout_seconds):
        assert initialization_timeout > coordinator.LIMIT_S
        calls.append((arguments, heartbeat_timeout_seconds))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as JAX takes the signal for itself

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(runs, "joined", False)
    before = signal.getsignal(signal.SIGTERM)
    runs.join(options(**changes))
    assert calls == ([] if given is None else [(given, 7)])
    assert runs.joined == (given is not None)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            ValueError("coordinator_address should be defined."),
            ValueError,
            r"no cluster is recognised \(coordinator_address should be defined\); give --coordinator_address, --num_",
        ),
        (
            jax.errors.JaxRuntimeError("UNKNOWN: Failed to start RPC server"),
            OSError,
            "process 0 cannot listen at the port of h:1, which may be in use; end what uses it, or give another",
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: another"), jax.errors.JaxRuntimeError, "INTERNAL: another"),
    ],
)
def test_processes_that_cannot_be_joined(monkeypatch, error, expected, message):
    def initialize(*_, **__):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(runs, "joined", False)
    with pytest.raises(expected, match=message):
        runs.join(options(multiprocess=True, coordinator_address="h:1"))


def test_commands_without_the_flag_are_not_quiet():
    assert not runs.is_quiet(options())
    assert runs.is_quiet(options(quiet=True))


@pytest.mark.parametrize(("process", "quiet", "says"), [(0, False, True), (0, True, False), (1, False, False)])
def test_one_process_writes_the_configuration_and_prints_what_train_says(
    monkeypatch, capsys, tmp_path, process, quiet, says
):
    from distill.api import run

    written: list[bool] = []
    begun = run.Run("", {}, {"model_dir": str(tmp_path / "run")}, {})
    said = ["LOG_PERIOD was 50 and is now 1", "a table of ids", "10% of the training rows are held out"]
    monkeypatch.setattr(run.Run, "begin", lambda self, writes: written.append(writes) or said[:1])
    monkeypatch.setattr(run.Run, "advice", lambda self: said[1:2])
    monkeypatch.setattr(run.Run, "held_out", lambda self: said[2:])
    monkeypatch.setattr(run.Run, "current", classmethod(lambda cls: begun))
    monkeypatch.setattr(jax, "process_index", lambda: process)
    runs.write_configuration(quiet=quiet)
    assert written == [process == 0]
    assert capsys.readouterr().err.splitlines() == (said if says else [])
