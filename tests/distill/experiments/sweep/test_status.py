"""``distill sweep status``: who trains what, what failed, what continues."""

import dataclasses
import os
import pathlib
import re

from etils import epath
from rich.console import Console

from distill import locking
from distill.experiments.sweep import execution, leases, outcomes, plan, status
from distill.experiments.sweep.runs import Run
from distill.training import timing


def test_the_table_and_the_line(tmp_path):
    runs = [Run(name, {"A": name}, (), (), pathlib.Path(tmp_path / name)) for name in ("one", "two", "three", "four")]
    made = plan.Plan(tmp_path, runs)
    for run in runs:
        run.directory.mkdir()
    (runs[0].directory / "result.json").write_text("{}")
    for _ in range(2):
        outcomes.note_failure(runs[1], f"the loss is nan; {'a long remedy ' * 20}")
    (runs[3].directory / "checkpoints" / "20").mkdir(parents=True)
    lease = leases.claim(tmp_path, "three")
    timing.Attempts(epath.Path(runs[1].directory), 0, started=0.0).made(37)
    console = Console(record=True, width=160)
    console.print(status.table(made))
    lines = [line for line in console.export_text().splitlines() if line.startswith("│")]
    assert "done" in lines[0]
    assert re.search(r"failed +│ +37 │", lines[1]) and "the loss is nan (2×)" in lines[1] and "remedy" not in lines[1]
    assert "running" in lines[2] and "loading and compiling" in lines[2] and "process" in lines[2]
    assert "waiting" in lines[3] and "continues from its checkpoint" in lines[3]
    assert status.line(made) == "4 runs: 1 done, 1 failed, 1 running, 1 waiting"
    assert execution.opening(
        made
    ) == "4 runs, 1 done already, 1 failed before (--retry_failed repeats them), 2 to do, " + (
        "1 of them from a checkpoint"
    )
    joint = dataclasses.replace(made, joint_seeds=True)  # which save no training state
    console.print(status.table(joint))
    assert "continues from" not in console.export_text() and "checkpoint" not in execution.opening(joint)
    worker = {"host": "node-3", "pid": 1}
    assert status._about(runs[2].directory, "running", worker) == (
        "loading and compiling; sweep command: process 1 on the machine node-3"
    )
    with locking.held(locking.of_directory(runs[2].directory), "the run"):  # by the training process
        about = status._about(runs[2].directory, "running", worker)
        assert about.startswith(f"loading and compiling; trained by process {os.getpid()} on the machine ")
        lease.release()  # its scheduler was killed; the process saves a checkpoint
        console.print(status.table(made))
        assert re.search("three .*running", console.export_text()) and "1 running" in status.line(made)
    (runs[3].directory / "checkpoints" / "20").rename(runs[3].directory / "checkpoints" / "20.orbax-checkpoint-tmp")
    assert status._about(runs[3].directory, "waiting", None) == ""
    timing.Attempts(epath.Path(runs[3].directory), 0, started=0.0).made(19)
    again = "starts again: no checkpoint was saved"
    assert status._about(runs[3].directory, "waiting", None) == again, "no step is complete"
    (runs[3].directory / "checkpoints" / "20").mkdir()
    assert status._about(runs[3].directory, "waiting", None, joint=True) == again
    lease.release()
    assert status.line(made) == "4 runs: 1 done, 1 failed, 2 waiting"
