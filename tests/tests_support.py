"""Rows and questions of several tests, JSON lines and folders, the settings of XLA and the order of test files."""

import functools
import importlib.util
import json
import mmap
import os
import pathlib
import re
import shutil

# The files that take longest, longest first. Workers take whole files (--dist loadfile) in this order, and all others
# after them, so that none is alone with a long file at the end. Keep it true: `make test` prints the slowest tests.
LONGEST_FIRST = (
    "tests/distill/training/test_multiprocess.py",
    "tests/test_examples.py",
    "tests/wheel/test_commands.py",
    "tests/distill/training/test_train.py",
    "tests/distill/experiments/sweep/test_execution.py",
    "tests/distill/training/test_step.py",
    "tests/distill/model/test_decoding.py",
    "tests/distill/training/test_nonfinite.py",
    "tests/test_docs_build.py",
    "tests/distill/model/test_network.py",
    "tests/distill/inference/test_model_directory.py",
    "tests/distill/experiments/test_demo.py",
    "tests/distill/cli/test_sweeps.py",
    "tests/distill/cli/test_gin_files.py",
    "tests/distill/training/test_loop.py",
    "tests/wheel/test_readme.py",
    "tests/distill/inference/test_export.py",
    "tests/distill/sharding/test_fused_attention.py",
    "tests/distill/checkpoints/test_conversion.py",
    "tests/distill/data/test_cache.py",
    "tests/distill/api/test_training.py",
    "tests/benchmarks/test_accelerator_end_to_end.py",
    "tests/distill/cli/test_errors.py",
    "tests/distill/inference/test_token_scores.py",
    "tests/distill/checkpoints/test_object_store.py",
    "tests/distill/training/test_t5gemma_training.py",
    "tests/distill/training/test_one_at_a_time.py",
    "tests/distill/inference/test_infer.py",
    "tests/distill/training/test_trainable.py",
    "tests/distill/test_locking.py",
    "tests/distill/model/test_layers.py",
    "tests/distill/training/test_shared_encoder.py",
    "tests/distill/cli/test_teacher.py",
    "tests/distill/checkpoints/test_digests.py",
    "tests/distill/cli/test_t5gemma_students.py",
    "tests/distill/training/test_replay.py",
    "tests/distill/training/test_joint_seeds.py",
    "tests/distill/data/test_cache_gs.py",
    "tests/distill/model/test_t5gemma.py",
    "tests/distill/test_stuck.py",
    "tests/distill/training/test_trajectory.py",
    "tests/distill/training/test_losses.py",
    "tests/distill/cli/test_replay.py",
    "tests/distill/training/test_tracking.py",
    "tests/distill/sharding/test_gpu_attention.py",
    "tests/test_docs.py",
    "tests/wheel/test_shipped_files.py",
)

IN_MEMORY = "/dev/shm"  # the folder of Linux whose files are in memory
QUESTIONS = [f"{i} apples and {i * 7 % 11} pears{'?' * (i % 3)}, naïve café" for i in range(50)]


def write_rows(path, number, start=0):
    """Sums to be answered, with the way to the answer; every fifth row lacks its rationale."""
    with path.open("w") as file:
        for i in range(start, start + number):
            a, b = i % 7, (i // 7) % 5
            row = {"question": f"{a} and {b}?", "answer": str(a + b)}
            if i % 5 != 4:
                row["why"] = f"{a} plus {b} is {a + b}."
            file.write(json.dumps(row) + "\n")


def write_lines(path: pathlib.Path, rows) -> pathlib.Path:
    """Writes JSON lines; strings are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def begin_run(run):
    """Leaves the folder of a sweep's run as a training that has begun does."""
    run.directory.mkdir(parents=True)
    (run.directory / "config.gin").write_text("")


def read_lines(path):
    """Reads JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files_of(folder):
    """All files of a folder: path → bytes."""
    folder = pathlib.Path(folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ample(folder: pathlib.Path) -> bool:
    """Whether a folder in memory can be written to, may hold programs, and 8 GB of it and of memory are available."""
    if not folder.is_dir() or not os.access(folder, os.W_OK) or os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return False
    found = re.search(r"^MemAvailable: *([0-9]+) kB$", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)
    return found is not None and min(shutil.disk_usage(folder).free, int(found[1]) * 1024) > 8e9


# The code generator that compiles in a third of the time, and one LLVM module a program instead of up to 32: programs here
# are small, and compiling and linking the parts takes a fifth longer.
QUICK = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}


@functools.cache
def xla_flags(devices: int) -> str:
    """Returns ``XLA_FLAGS`` for a number of host devices, with ``QUICK``.

    XLA ends a process that gives an unknown flag, so each is given only where XLA's library contains its name.
    """
    flags = {"xla_force_host_platform_device_count": str(devices)}
    folder = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent
    for library in folder.glob("*.so"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            flags |= {name: value for name, value in QUICK.items() if content.find(f"{name}\0".encode()) >= 0}
    return " ".join(f"--{name}={value}" for name, value in flags.items())
