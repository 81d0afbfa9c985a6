"""Plans of the launchers: their exact text, their quoting, and what each tool's own parser says of them."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.tools.launch import plan, quoting
from distill.tools.launch.gcloud import Gcloud
from distill.tools.launch.hosts import Hosts
from distill.tools.launch.job import Job
from distill.tools.launch.skypilot import Skypilot
from distill.tools.launch.slurm import Slurm
from distill.tools.launch.xpk import Xpk
from launch_fakes import Fakes

FIELDS = """--gin.FIELDS={"input": 'q $(x) `y` \\\\'}"""
JOB = Job(arguments=["train", FIELDS, "--gin.MODEL_DIR=gs://bucket/x"], name="nature")
POD = Gcloud("my-tpu", "us-west4-a")
GKE = Xpk("cluster", "gcr.io/p/distill:1", tpu_type="v5litepod-16")
GKE_GPU = Xpk("cluster", "gcr.io/p/distill:1", gpu_type="h100-mega-80gb-8", num_nodes=2)
SKY_GPU = Skypilot("H100:8", num_nodes=2, infra="k8s")
BATCH = Slurm(nodes=2, gpus_per_node=8, cpus_per_task=12, time="4:00:00", partition="gpu")


def only_command(made):
    (command,) = made.commands()
    return command


def remote(backend, job):
    """The shell that reads a backend's script, the script, and the flags that it adds."""
    if isinstance(backend, Slurm):
        return "bash", only_command(backend.plan(job)).stdin, ["--multiprocess"]
    if isinstance(backend, Skypilot):
        return "bash", yaml.safe_load(backend.plan(job).steps[0][0].text)["run"], ["--multiprocess"]
    arguments = only_command(backend.plan(job)).arguments
    if isinstance(backend, Hosts):
        return "sh", arguments[-1], []
    text = next(word.removeprefix("--command=") for word in arguments if word.startswith("--command="))
    return ("sh", text, ["--multiprocess"]) if isinstance(backend, Gcloud) else ("bash", text, ["--multiprocess"])


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
awkward = st.text(st.sampled_from("'\"\\$`(){}[]!#&|;<>*?~=% \n\t\u00e9\u2028\u0085a-"), max_size=8)


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    return Fakes(tmp_path_factory.mktemp("fakes"))


@pytest.mark.parametrize(
    "backend",
    [Hosts(["a"], restart_delay=0), POD, GKE, Skypilot("tpu-v5litepod-16"), BATCH],
    ids=lambda backend: type(backend).__name__,
)
def test_the_program_gets_the_arguments_as_they_were_given(backend, fakes):
    @settings(max_examples=10)
    @given(st.lists(texts | awkward, max_size=5), texts)
    def check(words, value):
        fakes.codes(0)
        job = Job(arguments=["train", *words], env=[f"VALUE={value}"])
        shell, script, flags = remote(backend, job)
        environment = {**fakes.environment, **job.environment} if isinstance(backend, Skypilot) else fakes.environment
        fakes.program("sleep", "#!/bin/sh\n")
        quiet = subprocess.DEVNULL
        subprocess.run([shell, "-c", script], env=environment, cwd=fakes.path, stdout=quiet, stderr=quiet, timeout=20)
        assert fakes.arguments() == ["train", *words, *flags]
        assert f"VALUE={value}".encode() in (fakes.path / "environment.1").read_bytes().split(b"\0")

    check()


@settings(max_examples=200)
@given(st.lists(texts | awkward, min_size=1, max_size=5))
def test_words_are_read_back(words):
    assert shlex.split(quoting.words(words)) == words


@settings(max_examples=60)
@given(st.lists(texts | awkward, min_size=1, max_size=5))
def test_embedded_words_survive_yaml_and_bash(words):
    text = quoting.embedded_words(words)
    assert not set(text) & set('"`\n\r') and "$(" not in text
    assert yaml.safe_load(f"command:\n- |\n  ({text}) & PID=$!;\n")["command"] == [f"({text}) & PID=$!;\n"]
    assert isinstance(yaml.safe_load(f'value: "{text}"')["value"], str)
    read = subprocess.run(["bash", "-c", f"printf '%s\\0' {text}"], capture_output=True, timeout=20, check=True)
    assert read.stdout.decode().split("\0")[:-1] == words


def test_gcloud_plan():
    create = Gcloud(
        "my-tpu",
        "us-west4-a",
        project="p",
        create=True,
        accelerator_type="v5litepod-16",
        runtime_version="r",
        spot=True,
    )
    (made,), (ssh,) = create.plan(JOB).steps
    assert quoting.words(made.arguments) == (
        "gcloud compute tpus tpu-vm create my-tpu --zone=us-west4-a --project=p --accelerator-type=v5litepod-16 "
        "--version=r --spot"
    )
    assert ssh.arguments[:8] == [
        *shlex.split("gcloud compute tpus tpu-vm ssh my-tpu --zone=us-west4-a --project=p"),
    ]
    assert ssh.arguments[8] == "--worker=all"
    stop = only_command(Gcloud("my-tpu", "z", stop=True).plan(Job(arguments=(), name="nature")))
    assert 'kill -TERM "$(cat launch/nature.pid)"' in stop.arguments[-1]


def test_xpk_plan():
    job = Job(arguments=["train", "--gin.DATA_DIR=a b"], directory="my app", env=["A=1"], max_restarts=7)
    assert only_command(GKE.plan(job)).arguments == [
        *shlex.split("xpk workload create --workload=distill --cluster=cluster --tpu-type=v5litepod-16 --num-slices=1"),
        *shlex.split(
            "--docker-image=gcr.io/p/distill:1 --priority=medium --max-restarts=7 --restart-on-exit-codes=75,143"
        ),
        "--termination-grace-period-seconds=120",
        "--command=cd $'my app' && exec env A=1 distill train $'--gin.DATA_DIR=a b' --multiprocess",
    ]
    gpu = only_command(GKE_GPU.plan(Job(arguments=["train"]))).arguments
    assert gpu[5:7] == ["--device-type=h100-mega-80gb-8", "--num-nodes=2"]
    assert gpu[-1] == (
        "--command=exec distill train --coordinator_address $JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT "
        "--num_processes $NNODES --process_id $NODE_RANK"
    )


def test_skypilot_task():
    backend = Skypilot("tpu-v5litepod-16", infra="gcp", spot=True, file_mount=["/data=gs://bucket"])
    written, launched = backend.plan(Job(arguments=["train"], env=["A=1"], setup=["pip install .", "true"])).steps
    assert launched[0].arguments == ["sky", "jobs", "launch", "--yes", "--name=distill", "distill.sky.yaml"]
    task = yaml.safe_load(written[0].text)
    run = task.pop("run")
    assert "\ndistill train --multiprocess &\n" in run
    assert task == {
        "name": "distill",
        "workdir": ".",
        "num_nodes": 1,
        "resources": {
            "infra": "gcp",
            "accelerators": "tpu-v5litepod-16",
            "use_spot": True,
            "job_recovery": {"strategy": "EAGER_NEXT_REGION", "recover_on_exit_codes": [75, 143]},
        },
        "file_mounts": {"/data": "gs://bucket"},
        "envs": {"A": "1"},
        "setup": "pip install .\ntrue\n",
    }


def test_slurm_script():
    script = only_command(BATCH.plan(JOB)).stdin
    options = re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)
    assert options == [
        *shlex.split(
            "--job-name=nature --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=12 --time=4:00:00"
        ),
        *shlex.split("--partition=gpu --output=%x-%j.log --open-mode=append --signal=B:TERM@120 --requeue"),
    ]
    assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7\n" in script
    assert "\nsrun --kill-on-bad-exit=0 --cpus-per-task=12 distill train " in script
    per_gpu = Slurm(nodes=1, gpus_per_node=8, tasks_per_node=8).script(JOB)
    assert "JAX_LOCAL_DEVICE_IDS" not in per_gpu and "--multiprocess" in per_gpu
    assert "--multiprocess" not in Slurm().script(JOB)
    check = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (check.returncode, check.stderr) == (0, "")


def test_hosts_plan():
    one, two = Hosts(["me@10.0.0.1", "10.0.0.2"], port=99, ssh_option=["Port=22"]).plan(JOB).commands()
    assert one.arguments[:-1] == [
        *shlex.split("ssh -n -o BatchMode=yes -o ServerAliveInterval=60 -o Port=22 me@10.0.0.1"),
    ]
    for process, command in enumerate((one, two)):
        flags = (
            f"--coordinator_address 10.0.0.1:99 --num_processes 2 --process_id {process} >> launch/nature-{process}.log"
        )
        assert flags in command.arguments[-1]


@pytest.mark.parametrize("backend", [Hosts(["a"], restart_delay=0), BATCH], ids=lambda backend: type(backend).__name__)
def test_what_is_printed_does_what_is_run(backend, tmp_path, monkeypatch):
    fakes = Fakes(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("PATH", "FAKES", "HOME"):
        monkeypatch.setenv(name, fakes.environment[name])
    made = backend.plan(JOB)
    assert plan.run(made) == 0
    ran = fakes.arguments()
    fakes.codes(0)
    (tmp_path / "arguments.1").unlink()
    subprocess.run(["bash", "-c", made.shell()], check=True, stdout=subprocess.DEVNULL, timeout=20)
    assert ran == fakes.arguments()
    assert ran[:3] == JOB.arguments


def test_a_file_with_any_line_is_written_by_the_printed_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = plan.Plan([[plan.File("a b.yaml", "EOF\n$HOME\nEOF_\n")]])
    subprocess.run(["bash", "-c", made.shell()], check=True, timeout=20)
    assert Path("a b.yaml").read_text() == "# Written by distill launch.\nEOF\n$HOME\nEOF_\n"


def test_a_plan_replaces_its_own_files_and_no_other(tmp_path):
    path = tmp_path / "task.yaml"
    made = plan.Plan([[plan.File(str(path), "a: 1\n")]])
    for _ in range(2):
        assert plan.run(made) == 0
    path.write_text("mine: 1\n")
    with pytest.raises(ValueError, match=r"task.yaml exists, and was not written by `distill launch`"):
        plan.run(made)
    assert path.read_text() == "mine: 1\n"


# The tools' own parsers. None of them is needed by this project; put a virtual environment's bin on the PATH to run these.


def _tool(name):
    path = shutil.which(name)
    return path or pytest.skip(f"{name} is not on the PATH")


def test_gcloud_parses_the_commands(tmp_path):
    gcloud = _tool("gcloud")
    create = Gcloud("t", "z", create=True, accelerator_type="v5litepod-16", runtime_version="v", preemptible=True)
    rich = Gcloud("t", "z", project="p", internal_ip=True, ssh_flag=["-vv"])
    environment = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}

    def verdict(line):
        argv = [gcloud, "meta", "lint-gcloud-commands", f"--command-string={line}"]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            pytest.skip(f"this gcloud has no lint-gcloud-commands: {done.stderr[:80]}")
        return json.loads(done.stdout)[0]

    for command in (*create.plan(JOB).commands(), *rich.plan(JOB).commands()):
        # The parser reads one line; the script is a single word of it, whatever it says.
        line = shlex.join("--command=x" if word.startswith("--command=") else word for word in command.arguments)
        assert verdict(line)["success"], line
    assert "--wrker" in verdict("gcloud compute tpus tpu-vm ssh t --zone=z --wrker=all --command=x")["error_message"]


@pytest.mark.parametrize("backend", [GKE, GKE_GPU], ids=["tpu", "gpu"])
def test_xpk_makes_a_manifest_that_restarts(backend, tmp_path):
    xpk = _tool("xpk")
    command = only_command(backend.plan(JOB)).arguments
    manifest = tmp_path / "manifest.yaml"
    dry = [xpk, *command[1:], "--project=p", "--zone=us-central2-b", "--dry-run", "--skip-validation"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [*dry, f"--output-manifest-file={manifest}"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobset = next(part for part in yaml.safe_load_all(manifest.read_text()) if part["kind"] == "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 50
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "NotIn"
    assert {75, 143} <= set(rule["onExitCodes"]["values"]) and not {1, 2} & set(rule["onExitCodes"]["values"])
    pod = job["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 120
    main = next(container for container in pod["containers"] if container["name"] in ("jax-tpu", "gpu-image"))
    _run_container(main["command"], Fakes(tmp_path), backend)


def _run_container(command, fakes, backend):
    """Runs a container's script: the arguments arrive, SIGTERM reaches the program, and its exit code comes out."""
    fakes.program("sleep", "#!/bin/sh\nexec /bin/sleep 0.05\n")
    fakes.codes("wait")
    names = {"JAX_COORDINATOR_ADDRESS": "first", "JAX_COORDINATOR_PORT": "6002", "NNODES": "2", "NODE_RANK": "1"}
    process = subprocess.Popen(command, env={**fakes.environment, **names}, stdout=subprocess.PIPE, text=True)
    fakes.wait_for("training")
    process.terminate()
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 75
    assert "checkpoint saved" in output
    gpu = ["--coordinator_address", "first:6002", "--num_processes", "2", "--process_id", "1"]
    assert fakes.arguments() == [*JOB.arguments, *(["--multiprocess"] if backend.tpu_type else gpu)]


@pytest.mark.parametrize(
    "backend",
    [SKY_GPU, Skypilot("tpu-v5litepod-16", infra="gcp", spot=True, strategy="FAILOVER")],
    ids=["gpu", "tpu"],
)
def test_skypilot_loads_the_task(backend, tmp_path):
    python = Path(_tool("sky")).parent / Path(sys.executable).name
    path = tmp_path / "task.yaml"
    path.write_text(backend.plan(dataclasses.replace(JOB, env=["A=1"])).steps[0][0].text)
    program = (
        "import json, sys, sky\n"
        "task = sky.Task.from_yaml(sys.argv[1])\n"
        "(resources,) = task.resources\n"
        "print(json.dumps([task.run, task.num_nodes, task.envs, resources.job_recovery, resources.use_spot]))\n"
    )
    done = subprocess.run(
        [str(python), "-c", program, str(path)],
        env={**os.environ, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    run, nodes, envs, recovery, spot = json.loads(done.stdout.splitlines()[-1])
    assert run == backend.task(JOB)["run"]
    assert (nodes, envs["A"], spot) == (backend.num_nodes, "1", backend.spot)
    assert recovery["strategy"] == backend.strategy and recovery["recover_on_exit_codes"] == [75, 143]
