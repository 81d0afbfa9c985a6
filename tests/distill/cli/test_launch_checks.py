"""A configuration compared with the machines: what cannot work is refused, what may not work is warned of."""

import shlex

import pytest

from distill.cli import launch

RECIPE = "--gin_file=gin/recipes/paper_svamp.gin --gin.DATA_DIR=gs://b/data"
BUCKET = f"{RECIPE} --gin.MODEL_DIR=gs://b/run"
XPK = "xpk --cluster=c --docker_image=i"
POD = "gcloud --tpu=t --zone=z --create --runtime_version=r"


def launched(line, hardware, arguments=BUCKET):
    return launch.launch_command([
        *shlex.split(f"{line} --dry-run -- train"), *shlex.split(arguments), *shlex.split(hardware),
    ])  # fmt: skip


def file(name, **axes):
    return " ".join(
        [
            f"--gin_file=gin/hardware/{name}.gin",
            *(f"--gin.partitioning.MeshConfig.{axis}={size}" for axis, size in axes.items()),
        ]
    )


@pytest.mark.parametrize(
    ("line", "hardware"),
    [
        ("slurm --gpus_per_node=8", file("gpu_8")),
        ("slurm --nodes=2 --gpus_per_node=8", file("gpu_8", data=-1)),
        ("slurm --nodes=2", file("gpu_8")),
        ("hosts --host=a --host=b", file("gpu_8")),
        ("gcloud --tpu=t --zone=z", file("tpu_v5e_256")),
        (f"{POD} --accelerator_type=v5litepod-16", file("tpu_v5e_16")),
        (f"{POD} --accelerator_type=v4-32", file("tpu_v4_32")),
        (f"{POD} --accelerator_type=v5p-128", file("tpu_v5p_128")),
        (f"{POD} --accelerator_type=v6e-8", file("tpu_v6e_8")),
        (f"{XPK} --tpu_type=v5litepod-16 --num_slices=2", file("tpu_v5e_16", data=4)),
        (f"{XPK} --gpu_type=h100-mega-80gb-8 --num_nodes=2", file("gpu_8", data=2)),
        ("skypilot --accelerators=H100:8 --num_nodes=2", file("gpu_8", data=2)),
        ("skypilot --accelerators=L4", file("gpu_1")),
        ("slurm --gpus_per_node=8", f"{file('gpu_8')} --gin.BATCH_SIZE=64 --gin.NUM_MICROBATCHES=8"),
    ],
)
def test_settings_that_fit_pass_without_a_warning(line, hardware, capsys):
    assert launched(line, hardware) == 0
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "hardware", "message"),
    [
        (
            "slurm --nodes=2 --gpus_per_node=8",
            file("gpu_8"),
            "mesh data=1 × fsdp=8 × model=1 does not fit: --nodes=2 --gpus_per_node=8 has 16 devices; --gin.partitioning",
        ),
        ("slurm --gpus_per_node=4", file("gpu_8"), "does not fit: --nodes=1 --gpus_per_node=4 has 4 devices"),
        ("slurm --gpus_per_node=4", file("gpu_8", data=-1), "mesh data=-1 × fsdp=8 × model=1 does not fit"),
        (
            f"{POD} --accelerator_type=v5litepod-256",
            file("tpu_v5e_16"),
            "--accelerator_type=v5litepod-256 has 256 devices; use --gin_file=gin/hardware/tpu_v5e_256.gin here",
        ),
        (f"{XPK} --tpu_type=v5litepod-16 --num_slices=2", file("tpu_v5e_16"), "--num_slices=2 has 32 devices"),
        (
            f"{XPK} --gpu_type=h100-mega-80gb-8",
            file("gpu_8", model=2),
            "has 8 devices; gin/hardware/gpu_8.gin fits without partitioning.MeshConfig.model = 2 (set in the command "
            "line); leave it out",
        ),
        (
            f"{POD} --accelerator_type=v5litepod-16",
            file("tpu_v5e_16", data=3, model=3),
            "gin/hardware/tpu_v5e_16.gin fits without partitioning.MeshConfig.data = 3 (set in the command line) and "
            "partitioning.MeshConfig.model = 3 (set in the command line); leave them out",
        ),
        (
            f"{POD} --accelerator_type=v5litepod-16",
            f"{file('tpu_v5e_16')} --gin.BATCH_SIZE=100",
            "BATCH_SIZE=100 (set in the command line) is not divisible by data × fsdp × micro-batches = 2 × 8 × 1 = 16; "
            "give a multiple of it, such as --gin.BATCH_SIZE=96",
        ),
        (
            "slurm --nodes=3 --gpus_per_node=8",
            f"{file('gpu_8', data=-1)} --gin.NUM_MICROBATCHES=2",
            "BATCH_SIZE=256 (set in gin/hardware/gpu_8.gin:11) is not divisible by data × fsdp × micro-batches = 3 × 8 × 2",
        ),
        (
            "slurm --nodes=2",
            f"{file('gpu_8')} --gin.BATCH_SIZE=3",
            "is not divisible by data × fsdp × micro-batches = 1 × 8 × 1 = 8; give a multiple of it, such as --gin.BATCH_",
        ),
        ("skypilot --accelerators=H100:4 --num_nodes=2", file("gpu_8", data=2), "--num_nodes=2 has 8 devices"),
        (
            "gcloud --tpu=t --zone=z",
            file("gpu_8"),
            "COMPILER_OPTIONS (set in gin/hardware/gpu_8.gin:16) has xla_gpu_enable_triton_gemm, which compilers for TPUs "
            "reject, and --tpu=t has TPUs; leave it out, and give a file gin/hardware/tpu_….gin",
        ),
        (
            "slurm",
            file("tpu_v5e_61"),
            "no gin file 'gin/hardware/tpu_v5e_61.gin'; did you mean 'gin/hardware/tpu_v5e_16.gin'",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(line, hardware, message, capsys):
    assert launched(line, hardware) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out


LOCAL = f"{RECIPE} --gin.MODEL_DIR=runs/x"


@pytest.mark.parametrize(
    ("line", "hardware", "arguments", "message"),
    [
        ("slurm --gpus_per_node=8", file("gpu_1"), BUCKET, "mesh data=1 × fsdp=1 × model=1 uses 1 device, and"),
        ("slurm --gpus_per_node=8", file("tpu_v5e_16", data=1), BUCKET, "tpu_v5e_16.gin is for TPUs, and --nodes=1"),
        (
            f"{POD} --accelerator_type=v4-32",
            file("tpu_v5e_16"),
            BUCKET,
            "tpu_v5e_16.gin is for TPU v5e, and --accelerator_type=v4-32 has TPU v4; use --gin_file=gin/hardware/tpu_v4",
        ),
        (f"{XPK} --tpu_type=tpu7x-8", file("tpu_v6e_8"), BUCKET, "is for TPU v6e, and --tpu_type=tpu7x-8 has TPU7x"),
        (
            f"{POD} --accelerator_type=v5lite-16",
            file("tpu_v5e_16"),
            BUCKET,
            "--accelerator_type=v5lite-16: 'v5lite-16' is no known type of TPU, so its number of devices is not checked; "
            "did you mean 'v5litepod-16'?",
        ),
        ("skypilot --accelerators=tpu-v6e", file("tpu_v6e_8"), BUCKET, "not checked; did you mean 'tpu-v6e-N'?"),
        (
            f"{POD} --accelerator_type=v9-8",
            file("tpu_v6e_8"),
            BUCKET,
            "known are v2, v3, v4, v5p, v5litepod, v5e, v6e and",
        ),
        (
            "skypilot --accelerators=tpu-v6e-8",
            file("cpu"),
            BUCKET,
            "cpu.gin is for CPUs, and --accelerators=tpu-v6e-8",
        ),
        (
            "slurm --gpus_per_node=8",
            f"{file('gpu_8')} --gin.ATTENTION=pallas",
            BUCKET,
            "ATTENTION='pallas' (set in the command line) is a kernel for TPUs, and --nodes=1 --gpus_per_node=8 has GPUs, "
            "where it is interpreted, which is slow; give --gin.ATTENTION=auto",
        ),
        (
            f"{POD} --accelerator_type=v6e-8",
            f"{file('tpu_v6e_8')} --gin.ATTENTION=cudnn",
            BUCKET,
            "is a kernel for GPUs, and --accelerator_type=v6e-8 has TPUs, where attention runs without it; give",
        ),
        (
            "hosts --host=a --host=b",
            file("gpu_8"),
            LOCAL,
            "MODEL_DIR='runs/x': a relative path is another folder on each",
        ),
        (
            "skypilot --accelerators=H100:8",
            file("gpu_8"),
            LOCAL,
            "MODEL_DIR='runs/x': a relative path is on the machine's",
        ),
    ],
)
def test_settings_that_may_not_work_are_warned_of(line, hardware, arguments, message, capsys):
    assert launched(line, hardware, arguments) == 0
    (warning,) = [text for text in capsys.readouterr().err.splitlines() if "WARNING" in text]
    assert message in warning


def test_a_missing_hardware_file_is_that_of_the_machines(capsys):
    for line, name in (
        ("slurm --gpus_per_node=8", "gpu_8"),
        ("skypilot --accelerators=H100:4", "gpu_…"),
        (f"{POD} --accelerator_type=v5p-128", "tpu_v5p_128"),
        ("gcloud --tpu=t --zone=z", "tpu_…"),
        ("hosts --host=a", "cpu"),
    ):
        assert launched(line, "") == 2
        assert f"give a file of gin/hardware, such as --gin_file=gin/hardware/{name}.gin, or" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["slurm --gpus_per_node=8", "hosts --host=a"])
def test_a_relative_directory_of_one_file_system_is_no_mistake(line, capsys):
    assert launched(line, file("gpu_8"), LOCAL) == 0
    assert "WARNING" not in capsys.readouterr().err


def test_a_file_that_may_be_on_the_machines_is_left_to_them(capsys):
    for name in ("gin/mine/own.gin", "own.gin"):
        assert launched("slurm --gpus_per_node=8", f"--gin_file={name}") == 0
        assert f"{name} is not on this machine" in capsys.readouterr().err


def test_a_command_that_does_not_train_has_no_batch_to_divide(capsys):
    given = f"slurm --gpus_per_node=8 --dry-run -- eval {BUCKET} --gin.BATCH_SIZE=100 {file('gpu_8')}"
    assert launch.launch_command(shlex.split(given)) == 0
    assert "BATCH_SIZE" not in capsys.readouterr().err
