"""The scripts of the launchers, run with stand-ins: restarts on 75, never on success or a user's mistake."""

import os
import signal
import subprocess

import pytest

from distill.tools.launch import plan, shell
from distill.tools.launch.hosts import Hosts
from distill.tools.launch.job import Job
from distill.tools.launch.skypilot import Skypilot
from distill.tools.launch.slurm import Slurm
from launch_fakes import Fakes

TRAIN = ("train", "--gin.MODEL_DIR=runs/x")
shells = pytest.mark.parametrize("program", ["sh", "bash"])


@pytest.fixture
def fakes(tmp_path):
    return Fakes(tmp_path)


def start(fakes, program, script, **changes):
    return subprocess.Popen(
        [program, "-c", script],
        cwd=fakes.path,
        env={**fakes.environment, **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, seconds=10):
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


def loop(**changes):
    job = Job(arguments=TRAIN, **changes)
    return shell.restarting(job, job.command(), "x", delay=0)


def slurm_script(**changes):
    return Slurm(nodes=2).script(Job(arguments=TRAIN, **changes))


@shells
@pytest.mark.parametrize("codes, runs", [((0,), 1), ((2,), 1), ((1,), 1), ((75, 0), 2), ((75, 143, 75, 2), 4)])
def test_loop_restarts_only_what_can_go_on(fakes, program, codes, runs):
    fakes.codes(*codes)
    code, output = finish(start(fakes, program, loop()))
    assert (code, fakes.runs) == (codes[-1], runs)
    assert [line for line in output.splitlines() if line.startswith("run ")] == [f"run {n + 1}" for n in range(runs)]
    assert fakes.read("launch/x.log") == output
    assert fakes.arguments(runs) == list(TRAIN)


@shells
def test_loop_is_bounded(fakes, program):
    fakes.codes(75, 75, 75, 75)
    assert finish(start(fakes, program, loop(max_restarts=2)))[0] == 75
    assert fakes.runs == 3


@shells
def test_loop_goes_on_when_only_the_run_was_stopped(fakes, program):
    fakes.codes("wait", 0)
    process = start(fakes, program, loop())
    os.kill(int(fakes.wait_for("training")), signal.SIGTERM)
    code, output = finish(process)
    assert (code, fakes.runs) == (0, 2)
    assert "checkpoint saved" in output


@shells
def test_stopping_saves_and_does_not_restart(fakes, program):
    fakes.codes("wait", 0)
    process = start(fakes, program, loop())
    fakes.wait_for("training")
    stop = shell.stopping(Job(arguments=()), "x")
    assert finish(start(fakes, program, stop)) == (0, "")
    code, output = finish(process)
    assert (code, fakes.runs) == (75, 1)
    assert "checkpoint saved" in output
    code, output = finish(start(fakes, program, stop))
    assert code == 2
    assert "x is not running" in output


@shells
def test_a_second_launch_is_refused_and_a_stale_file_is_not_mistaken_for_a_run(fakes, program):
    (fakes.path / "launch").mkdir()
    fakes.write("launch/x.pid", f"{os.getpid()}\n")  # left by a crash; the number is another program's now
    fakes.codes("wait", 0)
    process = start(fakes, program, loop())
    training = int(fakes.wait_for("training"))
    code, output = finish(start(fakes, program, loop()))
    assert code == 2
    assert "x is running" in output and "launch/x.log" in output
    os.kill(training, signal.SIGTERM)
    assert finish(process)[0] == 0
    assert fakes.runs == 2


@shells
def test_a_lost_connection_does_not_end_the_run(fakes, program):
    fakes.codes("wait", 0)
    process = start(fakes, program, loop())
    training = int(fakes.wait_for("training"))
    process.stdout.close()
    os.kill(training, signal.SIGTERM)
    assert process.wait(30) == 0
    assert fakes.read("launch/x.log").splitlines()[-1] == "run 2"


def test_preparation_runs_once_and_its_failure_is_the_end(fakes):
    (fakes.path / "a folder").mkdir()
    script = loop(directory="a folder", setup=["echo prepared"], env=["GREETING=it's $HOME"])
    code, output = finish(start(fakes, "sh", script))
    assert (code, output.splitlines()[0]) == (0, "prepared")
    assert "GREETING=it's $HOME\0" in fakes.read("environment.1")
    assert (fakes.path / "a folder" / "launch" / "x.log").exists()
    assert finish(start(fakes, "sh", loop(setup=["(exit 7)"])))[0] == 7
    assert fakes.runs == 1


@pytest.mark.parametrize("code, requeued", [(75, True), (143, True), (0, False), (2, False), (1, False), (137, False)])
def test_slurm_requeues_only_what_can_go_on(fakes, code, requeued):
    fakes.codes(code)
    assert finish(start(fakes, "bash", slurm_script()))[0] == code
    assert fakes.read("scontrol") == ("requeue 42\n" if requeued else "")
    assert fakes.arguments() == [*TRAIN, "--multiprocess"]


def test_slurm_passes_the_notice_to_the_tasks_and_not_to_srun(fakes):
    fakes.codes("wait")
    process = start(fakes, "bash", slurm_script())
    fakes.wait_for("training")
    process.terminate()
    code, output = finish(process)
    assert code == 75
    assert "checkpoint saved" in output and "forcing" not in output
    assert fakes.read("scancel") == "--signal=TERM 42\n"
    assert fakes.read("scontrol") == "requeue 42\n"


def test_the_stand_in_for_srun_kills_as_the_real_one_does(fakes):
    fakes.codes("wait")
    process = start(fakes, "bash", "exec srun --kill-on-bad-exit=0 distill train")
    fakes.wait_for("training")
    process.terminate()
    code, output = finish(process)
    assert code == 137
    assert "forcing" in output and "saved" not in output


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING"])
def test_slurm_does_not_requeue_what_was_cancelled(fakes, state):
    fakes.codes(75)
    fakes.write("state", f"{state}\n")
    code, output = finish(start(fakes, "bash", slurm_script()))
    assert (code, fakes.read("scontrol")) == (75, "")
    assert "cancelled" in output


@pytest.mark.parametrize("count, requeued", [("", True), ("2", True), ("3", False)])
def test_slurm_is_bounded(fakes, count, requeued):
    fakes.codes(75)
    finish(start(fakes, "bash", slurm_script(max_restarts=3), SLURM_RESTART_COUNT=count))
    assert bool(fakes.read("scontrol")) == requeued


def test_slurm_set_up_that_fails_runs_nothing(fakes):
    assert finish(start(fakes, "bash", slurm_script(setup=["(exit 9)"])))[0] == 9
    assert (fakes.runs, fakes.read("scontrol")) == (0, "")


@pytest.mark.parametrize("code", [0, 2, 75])
def test_skypilot_sees_the_exit_code_and_the_lines_that_it_appends_run(fakes, code):
    fakes.codes(code)
    script = Skypilot("H100:8").task(Job(arguments=TRAIN))["run"]
    output = finish(start(fakes, "bash", f"{script}\necho appended $?\n"))[1]
    assert output.splitlines() == ["run 1", f"appended {code}"]


def test_skypilot_machines_meet_at_the_first(fakes):
    script = Skypilot("H100:8", num_nodes=2).task(Job(arguments=TRAIN))["run"]
    names = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    finish(start(fakes, "bash", script, **names))
    flags = ["--coordinator_address", "10.0.0.1:8476", "--num_processes", "2", "--process_id", "1"]
    assert fakes.arguments() == [*TRAIN, *flags]


def test_skypilot_hook_waits_for_the_checkpoint(fakes):
    fakes.codes("wait")
    task = Skypilot("H100:8", infra="k8s/cluster").task(Job(arguments=TRAIN))
    (hook,) = task["config"]["hooks"]
    assert (hook["events"], hook["timeout"]) == (["preemption"], 120)
    process = start(fakes, "bash", task["run"])
    fakes.wait_for("training")
    assert finish(start(fakes, "bash", hook["run"])) == (0, "")
    assert not (fakes.path / ".distill.pid").exists()  # the hook ended after the run
    assert finish(process) == (75, "run 1\ncheckpoint saved\n")


def test_hosts_end_to_end(fakes, monkeypatch, capfd):
    """Launches one process that is stopped once: the stand-in for ssh runs what a remote shell would get."""
    monkeypatch.chdir(fakes.path)
    for name in ("PATH", "FAKES", "HOME"):
        monkeypatch.setenv(name, fakes.environment[name])
    fakes.codes(75, 0)
    made = Hosts(["localhost"], restart_delay=0).plan(Job(arguments=TRAIN, name="nature"))
    assert plan.run(made) == 0
    assert fakes.runs == 2
    assert "run 1\nlaunch: exit code 75; restart 1 of 50 in 0 s\nrun 2\n" in fakes.wait_for("launch/nature.log") + "\n"
    fakes.codes(2)
    assert plan.run(made) == 2
    assert fakes.runs == 1


def test_codes_of_several_hosts(fakes, monkeypatch):
    monkeypatch.chdir(fakes.path)
    fakes.program("ssh", '#!/bin/sh\nfor last; do :; done\ncase "$last" in *"process_id 1"*) exit 75 ;; esac\nexit 2\n')
    monkeypatch.setenv("PATH", fakes.environment["PATH"])
    job = Job(arguments=TRAIN)
    assert plan.run(Hosts(["a", "b", "c"]).plan(job)) == 2
    fakes.program("ssh", '#!/bin/sh\nfor last; do :; done\ncase "$last" in *"process_id 1"*) exit 75 ;; esac\n')
    assert plan.run(Hosts(["a", "b", "c"]).plan(job)) == 75
