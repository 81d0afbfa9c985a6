"""A real trace of real steps, and sums of operations."""

import dataclasses
import gzip
import json

import pytest

from distill.cli import main
from distill.training import profiling, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_a_traced_run_and_its_longest_operations(tmp_path, arguments, capsys):
    arguments["loop"] = dataclasses.replace(arguments["loop"], profile_steps=(3, 5))
    result = train.train(str(tmp_path / "run"), **arguments | {"validation": None}, quiet=True)
    phases = result.performance["phases"]
    assert phases["profile"] > phases["other"]  # starting the trace and writing it
    found = profiling.read(tmp_path / "run")
    assert found.steps == [3, 4, 5]
    assert {"step", "data"} <= set(found.phases)
    assert sum(operation.milliseconds for operation in found.operations) == pytest.approx(found.milliseconds)
    assert any(operation.program == "jit_step" and operation.count % 3 == 0 for operation in found.operations)
    assert len(profiling.read(tmp_path / "run", by_instruction=True).operations) > len(found.operations)
    assert main.main(["profile", str(tmp_path / "run"), "--top=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("trace.json.gz: steps 3 to 5")
    assert any(f"{found.operations[0].count:,}" in line and "%" in line for line in lines)
    assert max(map(len, lines[1:])) <= 100


def written(folder, events):
    path = folder / "profile/plugins/profile/2026/host.trace.json.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))


def event(name, start, duration, thread=1, **args):
    return {"ph": "X", "pid": 1, "tid": thread, "ts": start, "dur": duration, "name": name, "args": args}


def test_a_loop_does_not_count_its_body_twice_and_threads_are_apart(tmp_path):
    operation = {"hlo_module": "jit_step"}
    written(tmp_path, [
        event("while.1", 0, 1000, hlo_op="while.1", **operation),
        event("dot.3", 100, 300, hlo_op="dot.3", **operation),
        event("dot.4", 500, 400, hlo_op="dot.4", **operation),
        event("dot.3", 500, 600, thread=2, hlo_op="dot.3", **operation),
        event("a call of Python", 0, 9000),
        {"ph": "M", "pid": 1, "tid": 7, "name": "thread_name", "args": {"name": "XLA Ops"}},
        event("fusion.12", 0, 50, thread=7),
        event("distill/step", 0, 2000),
        event("train", 0, 2000, step_num="4"),
    ])  # fmt: skip
    found = profiling.read(tmp_path)
    assert [(one.name, one.count, round(one.milliseconds, 6)) for one in found.operations] == [
        ("dot", 3, 1.3), ("while", 1, 0.3), ("fusion", 1, 0.05),
    ]  # fmt: skip
    assert (found.steps, dict(found.phases)) == ([4], {"step": 2.0})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no gzip",
        gzip.compress(b"{}", mtime=0),
        gzip.compress(b'{"traceEvents": [{"ph": "X"}]}', mtime=0),
        gzip.compress(b"[" * 100_000, mtime=0),
    ],
)
def test_a_damaged_trace_is_one_line(tmp_path, text):
    written(tmp_path, [])
    next(tmp_path.rglob("*.gz")).write_bytes(text)
    with pytest.raises(ValueError, match=r"host.trace.json.gz is no trace that can be read"):
        profiling.read(tmp_path)


def test_a_trace_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "_MAX_TRACE_BYTES", 2**20)
    written(tmp_path, [])
    next(tmp_path.rglob("*.gz")).write_bytes(gzip.compress(b" " * (2**20 + 1)))
    with pytest.raises(ValueError, match=r"no trace that can be read: .*more than 1 MiB; trace fewer steps"):
        profiling.read(tmp_path)


def test_a_run_without_a_trace(tmp_path, capsys):
    assert main.main(["profile", str(tmp_path)]) == 2
    assert "holds no trace; train with --gin.PROFILE_STEPS='(100, 105)'" in capsys.readouterr().err
    written(tmp_path, [event("a call of Python", 0, 9000)])
    with pytest.raises(ValueError, match="has no operation of a compiled program; trace more steps"):
        profiling.read(tmp_path)


@pytest.mark.parametrize("steps", [(0, 2), (3, 2), (7, 9)])
def test_steps_outside_of_the_run_are_refused(arguments, steps):
    with pytest.raises(
        ValueError, match=r"PROFILE_STEPS must be \(first, last\) with 1 ≤ first ≤ last ≤ TRAIN_STEPS = 8"
    ):
        dataclasses.replace(arguments["loop"], profile_steps=steps)


def test_a_trace_that_cannot_start_does_not_end_the_run(tmp_path, caplog):
    (tmp_path / "profile").write_text("a file, so that no folder can be made")
    profiler = profiling.Profiler(tmp_path, (1, 2))
    with profiler.step(1):
        pass
    profiler.after(2, None)
    profiler.stop()
    assert ("no profile is taken" in caplog.text) or ("the profile was not written" in caplog.text)
