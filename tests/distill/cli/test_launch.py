"""``distill launch``: mistakes in one message, checks of the remote command line, documented dry runs, sweeps in parts."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from distill.cli import launch
from launch_fakes import Fakes

ROOT = Path(__file__).resolve().parents[3]


def test_a_missing_program_is_named_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch.launch_command(["skypilot", "--accelerators=H100:8", "--", "train"]) == 2
    assert capsys.readouterr().err == (
        "launch skypilot: sky is not on the PATH; pip install 'skypilot[gcp]', or another cloud's extra\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line, message",
    [
        ("slurm", "give it after --"),
        ("slurm -- trian", "did you mean 'train'?"),
        ("slurm -- train --multiprocess", "--multiprocess is for the launcher"),
        ("slurm --name=A -- train", "--name needs"),
        ("slurm --env=A -- train", "--env needs NAME=VALUE; got 'A'"),
        ("slurm --nodes=0 -- train", "--nodes needs at least 1; got 0"),
        ("slurm --nodes=2 -- infer", "only train and eval"),
        ("slurm --gpus_per_node=8 --tasks_per_node=3 -- train", "--tasks_per_node needs 1 or"),
        ("slurm '--partition=a b' -- train", "--partition needs"),
        ("slurm --max_restarts=-1 -- train", "--max_restarts needs at least 0; got -1"),
        ("hosts -- train", "a host is missing; give --host=HOST"),
        ("hosts --host=a --host=me@a -- train", "--host names a 2 times"),
        ("slurm -- train --gin_file=gin/hardware/gpu_9.gin", "did you mean"),
        ("hosts --host=-oProxyCommand=x -- train", "--host needs"),
        ("gcloud --tpu=t --zone=z --create -- train", "--create needs"),
        ("gcloud --tpu=t --zone=z --spot -- train", "go with --create"),
        ("gcloud --tpu=t --zone=z -- infer --input=a --output=b", "only train and eval"),
        ("xpk --cluster=c --docker_image=i -- train", "got neither"),
        ("xpk --cluster=c --docker_image=i --tpu_type=t --num_nodes=2 -- train", "use --num_slices"),
        ("xpk --cluster=c --docker_image=i --tpu_type=t --setup=x -- train", "image is set up"),
        ("skypilot --accelerators=tpu-v6e-8 --num_nodes=2 -- train", "one slice"),
        ("skypilot --accelerators=H100 --file_mount=/data -- train", "REMOTE=LOCAL"),
    ],
)
def test_mistakes_end_in_one_message(line, message, capsys):
    assert launch.launch_command([*shlex.split(line)]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out


def test_a_command_line_that_distill_would_refuse_is_not_launched(capsys):
    with pytest.raises(SystemExit) as stopped:
        launch.launch_command(["slurm", "--dry-run", "--", "train", "--gn_file=x"])
    assert stopped.value.code == 2
    assert "there is no flag --gn_file; did you mean '--gin_file'" in capsys.readouterr().err


def test_documented_dry_runs(capsys):
    """Every dry run of the page prints what the page shows, where ``…`` stands for lines that are left out."""
    page = (ROOT / "docs" / "launching.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```bash\n(distill launch [^`]*?)```\n+```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    backends = set()
    for command, output in shown:
        words = shlex.split(command.replace("\\\n", " "))
        assert "--dry-run" in words
        assert launch.launch_command(words[2:]) == 0
        pattern = re.escape(output).replace("…\\\n", "(?:.*\\n)+?")
        assert re.fullmatch(pattern, capsys.readouterr().out)
        backends.add(words[2])
    assert backends == set(launch.BACKENDS)


LOCAL = [
    f"--gin_file=gin/{name}.gin" for name in ("models/t5_1_1_tiny", "tasks/svamp", "runs/distill", "hardware/gpu_8")
]
GIVEN = ["--gin.DATA_DIR=gs://b/data", "--gin.MODEL_DIR=gs://b/run"]


def test_macros_are_checked_where_the_files_are_local(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dry_run = ["slurm", "--nodes=1", "--gpus_per_node=8", "--dry-run", "--"]
    assert launch.launch_command([*dry_run, "train", *LOCAL, *GIVEN, "--gin.ALHPA=1"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "launch slurm: nothing uses ALHPA (set in the command line); did you mean 'ALPHA'?\n"
    assert launch.launch_command([*dry_run, "train", *LOCAL, GIVEN[0]]) == 2
    assert "MODEL_DIR is used by gin/runs/train.gin" in capsys.readouterr().err
    assert launch.launch_command([*dry_run, "eval", *LOCAL, *GIVEN]) == 0
    assert launch.launch_command([*dry_run, "eval", "--model_dir=gs://b/run", "--gin.EVAL_FORM=rationale"]) == 0
    assert launch.launch_command([*dry_run, "train", *LOCAL, *GIVEN]) == 0
    assert "distill train" in capsys.readouterr().out
    assert launch.launch_command([*dry_run, "train", *LOCAL, "--gin_file=there/mine.gin", *GIVEN, "--gin.ALHPA=1"]) == 0
    assert "there/mine.gin is not on this machine, so macros are not checked here" in capsys.readouterr().err


def test_what_to_run_names_a_file_that_ships(capsys):
    assert launch.launch_command(["slurm", "--dry-run"]) == 2
    (name,) = re.findall(r"gin/[\w/]+\.gin", capsys.readouterr().err)
    assert (ROOT / name).is_file()


SWEEP = "axes: {method: {a: {}, b: {}}, RANDOM_SEED: [0, 1]}\njoint_seeds: true\ndirectory: out\n"


def split(tmp_path, capsys, line, text=SWEEP):
    """The plan of a split sweep, and the exit code."""
    (tmp_path / "s.yaml").write_text(text)
    code = launch.launch_command([*shlex.split(line), "--dry-run", "--", "sweep", str(tmp_path / "s.yaml")])
    said = capsys.readouterr()
    return said.out if code == 0 else said.err


def test_a_sweep_is_split_into_one_job_per_group_of_seeds(tmp_path, capsys):
    shown = split(tmp_path, capsys, "xpk --cluster=c --docker_image=i --tpu_type=v5litepod-16 --split=runs --name=x")
    assert re.findall(r"--workload=(\S+)", shown) == ["x-0", "x-1"]
    assert re.findall(r"(--index=\d) --multiprocess", shown) == ["--index=0", "--index=1"]
    shown = split(
        tmp_path,
        capsys,
        "gcloud --tpu=t --zone=z --create --accelerator_type=v5litepod-16 --runtime_version=r --split=runs",
    )
    assert shown.count("tpu-vm create t") == 1 and re.findall(r"--index=\d", shown) == ["--index=0", "--index=1"]
    shown = split(tmp_path, capsys, "skypilot --accelerators=H100:8 --split=runs")
    assert re.findall(r"sky jobs launch --yes --name=(\S+) (\S+)", shown) == [
        ("distill-0", "distill-0.sky.yaml"),
        ("distill-1", "distill-1.sky.yaml"),
    ]


def test_workers_train_on_a_shared_directory_alone(tmp_path, capsys):
    for line in ("hosts --host=a --host=b", "slurm --nodes=2", "skypilot --accelerators=H100:8 --num_nodes=2"):
        shown = split(tmp_path, capsys, f"{line} --split=workers")
        assert f"distill sweep {tmp_path}/s.yaml" in shown
        assert not re.search(r"--multiprocess|--coordinator_address|--index", shown)
        assert "give --split=workers or --split=runs" in split(tmp_path, capsys, line)


def test_a_slurm_array_runs_one_task_per_index(tmp_path, capsys):
    shown = split(tmp_path, capsys, "slurm --split=array --max_parallel=1 --output=x.log")
    script = shown.split("\n", 1)[1].rsplit("EOF", 1)[0]
    assert "#SBATCH --array=0-1%1\n" in script
    fakes = Fakes(tmp_path)
    for index in ("0", "1"):
        fakes.codes(0)
        environment = {**fakes.environment, "SLURM_ARRAY_TASK_ID": index}
        subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, check=True, timeout=20)
        assert fakes.arguments() == ["sweep", str(tmp_path / "s.yaml"), f"--index={index}"]


def test_the_jobs_of_hosts_run_one_after_another_also_after_a_failed_run(tmp_path, monkeypatch):
    fakes = Fakes(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("PATH", "FAKES", "HOME"):
        monkeypatch.setenv(name, fakes.environment[name])
    (tmp_path / "s.yaml").write_text(SWEEP)
    fakes.codes(4, 0)
    given = ["hosts", "--host=a", "--restart_delay=0", "--split=runs", "--", "sweep", "s.yaml"]
    assert launch.launch_command(given) == 4
    assert [fakes.arguments(run)[-1] for run in (1, 2)] == ["--index=0", "--index=1"]


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        ("hosts --host=a --split=array", SWEEP, "--split=array is not for hosts, which takes runs or workers"),
        ("gcloud --tpu=t --zone=z --split=workers", SWEEP, "--split=workers is not for gcloud, which takes runs"),
        ("slurm --split=array", "axes: {A: []}\ndirectory: out", "must be a list of values"),
        ("slurm --split=runs", SWEEP + "design: {kind: optuna, trials: 3}", "give --split=workers"),
    ],
)
def test_splits_that_cannot_be(tmp_path, capsys, line, text, message):
    assert message in split(tmp_path, capsys, line, text)
    assert launch.launch_command(["slurm", "--split=runs", "--", "train"]) == 2
