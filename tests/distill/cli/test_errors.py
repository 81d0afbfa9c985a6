"""Mistakes end in one line and exit code 2, the machine's faults in one line and 74, a signal in 75; bugs in tracebacks."""

import errno
import logging
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import pytest

from distill import exit_codes
from distill.cli import errors, main
from tests_support import write_rows

TINY = [f"--gin_file=gin/{name}.gin" for name in ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")]
TINY += [
    "--gin.VOCABULARY_PATH=bytes",
    "--gin.FILES={'train': 'train.jsonl'}",
    "--gin.MODEL_DIR=runs/a",
    "--gin.TEST_SPLIT=None",
]
FIELDS = "--gin.FIELDS={'input': 'question', 'rationale': 'why', 'label': 'answer'}"


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ends(capsys, *arguments):
    """The exit code and the one line, which may follow lines of progress."""
    code = main.main(list(arguments))
    lines = capsys.readouterr().err.strip().splitlines()
    progress = r"distill \w+: loading .*|reading .*|the vocabulary .*|no validation rows are given: .*"
    assert all(re.fullmatch(progress, line) for line in lines[:-1]), lines
    return code, lines[-1]


@pytest.mark.parametrize(
    "binding", ["PATIENCE=none", "EMA_DECAY=none", "BATCH_SIZE=8.0", "Z_LOSS=on", "RANDOM_SEED=abc"],
)  # fmt: skip
def test_wrong_types(binding, capsys):
    pathlib.Path("train.jsonl").touch()
    code, line = ends(capsys, "train", *TINY, f"--gin.{binding}")
    assert code == 2
    assert line.startswith(f"distill train: {binding.partition('=')[0]} (set in the command line), as ")
    assert "expected" in line and "got" in line


@pytest.mark.parametrize("files", ['{"train": 3}', '{"train": ["train.jsonl", 3]}'])
def test_files_of_another_form(files, capsys):
    code, line = ends(capsys, "train", *TINY, f"--gin.FILES={files}")
    assert code == 2
    assert line.startswith(
        "distill train: FILES['train'] must be a path, a pattern such as 'rows-*.jsonl', or a list of them"
    )
    assert line.endswith("(set in the command line)")


def test_a_file_where_a_folder_is_needed(capsys):
    pathlib.Path("afile").touch()
    pathlib.Path("train.jsonl").write_text('{"input": "a", "label": "b", "rationale": "c"}\n')
    code, line = ends(capsys, "train", *TINY, "--gin.MODEL_DIR=afile")
    assert code == 2
    assert line == "distill train: MODEL_DIR=afile is a file; expected a folder: give the path of a new folder"


def test_a_folder_of_another_program(capsys, tmp_path):
    write_rows(tmp_path / "train.jsonl", 4)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    code, line = ends(capsys, "train", *TINY, "--gin.MODEL_DIR=other")
    assert code == 2
    assert line == (
        "distill train: MODEL_DIR=other holds no run, but notes.txt, which no run writes; give a new folder, such as "
        "MODEL_DIR=other/run"
    )
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "binding",
    ["FILES={'train': 'none.jsonl'}", "FORM=piared", "partitioning.MeshConfig.data=64", "FIELDS={'input': 'x'}"],
)
def test_a_start_that_fails_leaves_nothing(binding, capsys, tmp_path):
    write_rows(tmp_path / "train.jsonl", 4)
    assert ends(capsys, "train", *TINY, "--gin.MODEL_DIR=new/runs/a", f"--gin.{binding}")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_the_quickstart_without_its_rows_names_the_command_that_writes_them(capsys, tmp_path):
    code, line = ends(capsys, "train", "--gin_file=gin/recipes/quickstart.gin", "--gin.MODEL_DIR=runs/first")
    assert code == 2
    assert line.endswith("`distill example --output=rows` writes the rows and the vocabulary of this recipe")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_there(capsys):
    assert ends(capsys, "sweep", "none.json")[0] == 2
    assert ends(capsys, "config", "--gin_file=none.gin")[0] == 2
    assert ends(capsys, "config", "--gin_file=.") == (2, "distill config: '.' is a folder, not a gin file")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 74,
         "runs/a: No space left on device; free some space and run the same command again"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 74,
         "/x: Permission denied; change the permission or use another path"),
        (OSError(errno.EIO, "Input/output error", "x"), 74,
         "x: Input/output error; check the disk or the network storage, and run the same command again"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 74, "Connection refused"),
        (OSError("a library's own text\nand more"), 74, "a library's own text"),
        (FileNotFoundError("no run.json in runs/a"), 2, "no run.json in runs/a"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", b"x"), 2, "x: No such file or directory"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), 2, "x: Is a directory; give a file, not a folder"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), 74, "a: Invalid cross-device link (to b)"),
        (MemoryError(), 74, "the machine's memory is exhausted; use smaller batches, or a larger machine"),
        (ValueError("bad\n  In call to configurable 'f' (<function f at 0x1>)"), 2, "bad"),
        (FloatingPointError("the loss is nan"), 2, "the loss is nan"),
    ],
)  # fmt: skip
def test_what_is_said_of_each(error, code, text):
    assert errors.explain(error) == (code, text)


def test_errors_of_tensorflow():
    import tensorflow as tf

    with pytest.raises(tf.errors.OpError) as caught:
        tf.io.read_file("nowhere").numpy()
    code, text = errors.explain(caught.value)
    assert code == 2 and "nowhere" in text and "\n" not in text
    with pytest.raises(tf.errors.OpError) as caught:
        tf.io.read_file(".").numpy()
    assert errors.explain(caught.value)[0] == 2
    lost = tf.errors.UnavailableError(None, None, "Could not resolve host: example\nsecond line")
    assert errors.explain(lost) == (74, "Could not resolve host: example")
    refused = tf.errors.PermissionDeniedError(None, None, "HTTP response code 403\n\t when reading gs://b/c\nmore")
    assert errors.explain(refused) == (74, "HTTP response code 403 when reading gs://b/c")


def test_a_device_without_memory():
    import jax

    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes\nmore")
    code, text = errors.explain(full)
    assert code == 74 and "lower BATCH_SIZE" in text and "\n" not in text
    assert errors.explain(jax.errors.JaxRuntimeError("INTERNAL: a bug")) is None


def test_bugs_show_their_traceback(monkeypatch):
    def bug(options):
        raise KeyError("a bug")

    monkeypatch.setattr(main, "command_function", lambda name: bug)
    with pytest.raises(KeyError):
        main.main(["completion", "bash"])
    assert errors.explain(TypeError("unsupported operand")) is None


def test_verbose_shows_the_traceback_of_a_mistake():
    with pytest.raises(ValueError, match="no gin file"):
        main.main(["config", "--gin_file=none.gin", "-v"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("line", ["completion bash", "launch hosts --host=a --dry-run -- train --gin.MODEL_DIR=x"])
def test_a_full_disk(line):
    program = [sys.executable, "-m", "distill.cli.main", *line.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == exit_codes.MACHINE == 74
    reason = "No space left on device; free some space and run the same command again"
    assert done.stderr == f"distill {line.split()[0]}: {reason}\n"


def test_a_file_that_cannot_be_written(tmp_path):
    """A limit on the size of files, as a quota would have it, in the middle of writing a page of some kilobytes."""
    (tmp_path / "rows.jsonl").write_text('{"input": "a", "label": "b", "rationale": "c"}\n')
    program = [sys.executable, "-B", "-m", "distill.cli.main"]  # without -B, Python's own files would be cut short, too
    program += ["inspect", "--inputs=rows.jsonl", "--output=page.html"]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    done = subprocess.run(program, cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == exit_codes.MACHINE
    assert done.stderr.strip().splitlines()[-1].startswith("distill inspect: ")
    assert "File too large" in done.stderr and "Traceback" not in done.stderr


def test_a_plan_of_launch_that_cannot_be_written(tmp_path):
    """The task file of an earlier launch stays, whole."""
    (tmp_path / "sky").write_text("#!/bin/sh\ntouch launched\n")
    (tmp_path / "sky").chmod(0o755)
    (tmp_path / "task.yaml").write_text(earlier := "# Written by distill launch.\nearlier: true\n")
    line = "launch skypilot --accelerators=A100:1 --task_file=task.yaml -- train --gin.MODEL_DIR=gs://bucket/x"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": os.fspath(pathlib.Path(__file__).resolve().parents[3]),
    }
    done = subprocess.run([sys.executable, "-B", "-m", "distill.cli.main", *line.split()], cwd=tmp_path, env=environment,
                          preexec_fn=limit, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == exit_codes.MACHINE, done.stderr
    assert done.stderr.startswith("distill launch: ") and "File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "task.yaml").read_text() == earlier
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sky", "task.yaml"]


def test_nobody_reads_the_output(tmp_path):
    program = f"{sys.executable} -m distill.cli.main completion bash | true"
    done = subprocess.run(["bash", "-c", f"{program}; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "74")  # 0 where everything fitted into the pipe


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_outside_of_the_loop(name):
    program = (
        "import sys, time\nfrom distill.cli import main\n"
        "main.command_function = lambda name: lambda options: (print('begun', flush=True), time.sleep(60))\n"
        "sys.exit(main.main(['completion', 'bash']))\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", program], **pipes)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.STOPPED == 75
    assert err.strip() == f"stopped by {name}; run the same command again to start over"


def test_sigterm_while_a_run_is_setting_up(tmp_path):
    """Its configuration is written, and nothing is compiled yet: the same exit code, and advice, as later."""
    write_rows(tmp_path / "train.jsonl", 20)
    process = subprocess.Popen(
        [sys.executable, "-m", "distill.cli.main", "train", *TINY, FIELDS],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(6000):
        if process.poll() is not None or (tmp_path / "runs" / "a" / "config.gin").exists():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == exit_codes.STOPPED, err
    assert "; nothing was saved yet: run the same command again to start over" in err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "seconds"), [("SIGTERM", 0.0), ("SIGTERM", 0.7), ("SIGTERM", 2.0), ("SIGINT", 0.4), ("SIGINT", 0.6)]
)
def test_a_signal_while_libraries_are_imported(tmp_path, name, seconds):
    """From the first line on: an exception in an import can come back as another one, or crash a native module."""
    write_rows(tmp_path / "train.jsonl", 4)
    process = subprocess.Popen(
        [sys.executable, "-m", "distill", "train", *TINY, FIELDS], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline() == "distill train: loading TensorFlow and JAX\n"
    time.sleep(seconds)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=300)
    assert process.returncode == exit_codes.STOPPED, err
    assert err.strip().splitlines()[-1] == f"stopped by {name}; {exit_codes.NOTHING_SAVED}"
    assert "Traceback" not in err


def test_a_signal_that_a_library_converts(capsys, monkeypatch):
    def imports(options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except BaseException as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr(main, "command_function", lambda name: imports)
    assert main.main(["completion", "bash"]) == exit_codes.STOPPED
    assert capsys.readouterr().err == "stopped by SIGTERM; run the same command again to start over\n"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["report", "."], "start over"),
        (["eval", "--model_dir=."], "start over"),
        (["data", "--data_dir=.", "--set=svamp"], "start over"),
        (["train", *TINY], "start over"),
        (["train", *TINY, "--gin.MODEL_DIR='saved'"], "continue"),
        (["sweep", "grid.json"], "continue"),
        (["extract", "--inputs=a.jsonl", "--output=b.jsonl", "--prompt=p.json"], "continue"),
    ],
)
def test_only_commands_that_keep_their_progress_are_continued(words, advice, tmp_path, capsys, monkeypatch):
    def stopped(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "command_function", lambda name: stopped)
    monkeypatch.setattr(main.runs, "load_tensorflow", lambda options: None)
    monkeypatch.setattr(main.runs, "check_directories", lambda options: None)
    monkeypatch.setattr(main.runs, "check_configuration", lambda options: None)
    monkeypatch.setattr("distill.cli.compilation_cache.enable", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved" / "checkpoints" / "10").mkdir(parents=True)
    assert main.main(words) == exit_codes.STOPPED
    saved = "nothing was saved yet: " if words[0] == "train" and advice == "start over" else ""
    assert capsys.readouterr().err == f"stopped by SIGINT; {saved}run the same command again to {advice}\n"
    assert words[0] in main.COMMANDS and set(main.CONTINUING) <= {*main.COMMANDS, "launch"}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_in_an_import_ends_the_process_without_an_exception(tmp_path, name):
    (tmp_path / "slow_module.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        f"    os.kill(os.getpid(), signal.{name})\n"
        "    time.sleep(30)\n"
        "except BaseException as error:\n"
        "    print('raised', repr(error), flush=True)\n"
    )
    program = (
        "import sys\nfrom distill.cli import main\n"
        "main.command_function = lambda name: lambda options: __import__('slow_module')\n"
        "sys.exit(main.main(['completion', 'bash']))\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (exit_codes.STOPPED, "")
    assert done.stderr == f"stopped by {name}; run the same command again to start over\n"


def test_a_signal_after_the_command_changes_no_exit_code():
    program = (
        "import os, signal, sys, time\nfrom distill.cli import main\n"
        "sys.argv = ['distill', 'completion', 'bash']\ncode = main.main()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.5)\nsys.exit(code)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL).returncode == 0


def test_faults_of_the_machine_in_other_exceptions():
    try:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a")
    except OSError as error:
        hidden = RuntimeError("the writer failed")
        hidden.__cause__ = error
    code, text = errors.explain(hidden)
    assert code == 74 and text.startswith("the writer failed: runs/a: No space left on device; free some space")
    code, text = errors.explain(ValueError("UNAVAILABLE: reading gs://b/c: HTTP response code: 503\nmore"))
    assert code == 74 and "gs://b/c" in text and "\n" not in text


def test_a_lost_process_is_named():
    import jax

    for kind in (jax.errors.JaxRuntimeError, ValueError):
        code, text = errors.explain(kind("UNKNOWN: Gloo all-reduce failed: Connection closed by peer\nmore"))
        assert code == 74 and text.startswith("another process of the run has ended") and "\n" not in text


def test_quiet_shows_results_and_errors_only(capsys, monkeypatch):
    def talks(options):
        print("progress", file=sys.stderr)
        print("result")
        logging.getLogger("distill").warning("a warning")
        if options.shell == "zsh":
            raise ValueError("a mistake")
        return 0

    monkeypatch.setattr(main, "command_function", lambda name: talks)
    assert main.main(["completion", "bash", "--quiet"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("result\n", "")
    assert main.main(["completion", "zsh", "-q"]) == 2
    assert capsys.readouterr().err == "distill completion: a mistake\n"
    assert main.main(["completion", "bash"]) == 0
    assert "progress" in capsys.readouterr().err


def test_the_home_folder_in_flags(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "student.json").touch()
    (tmp_path / "in.jsonl").touch()
    seen = {}
    monkeypatch.setattr(main, "command_function", lambda name: lambda options: seen.update(vars(options)) or 0)
    given = ["infer", "--model_dir=~/runs/a", "--input=~/in.jsonl", "--output", "~/out.jsonl"]
    assert main.main(given) == 0
    assert (seen["model_dir"], seen["input"], seen["output"]) == tuple(
        f"{tmp_path}/{name}" for name in ("runs/a", "in.jsonl", "out.jsonl")
    )
    assert main.main([*given[:-1], "~no-such-user-here/out.jsonl"]) == 2
    assert "there is no user 'no-such-user-here'" in capsys.readouterr().err


def test_a_message_that_repeats_a_long_value_is_cut():
    """Found by fuzzing: messages that repeat a value of a file, or an override, were as long as the value."""
    code, text = errors.explain(ValueError("expected a name; got " + "x" * 50_000))
    assert code == exit_codes.MISTAKE
    assert text.endswith("… (42,021 more characters)") and len(text) < 8100
    assert errors.explain(ValueError("y" * 8000)) == (exit_codes.MISTAKE, "y" * 8000)
