"""Which model size fits on which slice, and the work per chip as slices grow, by `distill precompile`.

It prints two tables and draws a plot. The first table has every size with the hardware file meant for it. The second is
weak scaling: T5 1.1 Base with 8 windows per chip on 4 to 256 chips of v5e, where the work per chip should stay
constant. Windows have 512 + 256 tokens and are packed; all other settings are those of the files.

    python -m benchmarks.tpu_scale [--parts=sizes,weak] [--output=tpu_scale.jsonl] [--plot=FILE.png]

Every finished row is a line of the output file; rows that are already there are not compiled again.
"""

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# size, hardware file, topology, more bindings
SIZES = (
    ("base", "tpu_v5e_16", "v5e:4x4", {}),
    ("large", "tpu_v5e_16", "v5e:4x4", {}),
    (
        "large",
        "tpu_v5e_16",
        "v5e:4x4",
        {"partitioning.MeshConfig.fsdp": 4, "partitioning.MeshConfig.model": 2, "SEQUENCE_PARALLEL": True},
    ),
    ("large", "tpu_v4_32", "v4:2x2x4", {}),
    ("xl", "tpu_v5e_256", "v5e:16x16", {}),
    ("xl", "tpu_v5p_128", "v5p:4x4x4", {}),
    ("xl", "tpu_v5p_128", "v5p:4x4x4", {"PARAM_GATHER": "'layer'"}),
    ("xxl", "tpu_v5e_256", "v5e:16x16", {}),
    ("xxl", "tpu_v5e_256", "v5e:16x16", {"SEQUENCE_PARALLEL": True}),
    ("xxl", "tpu_v5e_256", "v5e:16x16", {"REMAT_POLICY": "'full'"}),
    ("xxl", "tpu_v5p_128", "v5p:4x4x4", {}),
    ("xxl", "tpu_v5p_128", "v5p:4x4x4", {"SEQUENCE_PARALLEL": True}),
    ("xxl", "tpu_v5p_128", "v5p:4x4x4", {"PARAM_GATHER": "'layer'"}),
)
WEAK = ("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16")
WINDOWS_A_CHIP = 8


def compiled(size: str, hardware: str, topology: str, bindings: dict[str, Any], run: str = "distill") -> dict[str, Any]:
    """Returns the report of the training step."""
    given = {"TASK_FEATURE_LENGTHS": '{"inputs": 512, "targets": 256}', **bindings}
    command = [
        sys.executable, "-m", "distill.cli.main", "precompile", f"--topology={topology}", "--steps=train", "--json",
        f"--gin_file=gin/models/t5_1_1_{size}.gin", "--gin_file=gin/tasks/cqa.gin", f"--gin_file=gin/runs/{run}.gin",
        f"--gin_file=gin/hardware/{hardware}.gin", *(f"--gin.{name}={value}" for name, value in given.items()),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def rows_of(path: Path, key: Mapping[str, Any] = {}) -> list[dict[str, Any]]:
    """Returns the JSON lines whose values match ``key``; none if there is no file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if all(name in row and row[name] == value for name, value in key.items())]


def find_or_make(path: Path, key: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the first JSON line that matches ``key``; if there is none, appends ``key`` with the result of ``make``."""
    for row in rows_of(path, key):
        return row
    row = {**key, **make()}
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="sizes,weak")
    parser.add_argument("--output", default="tpu_scale.jsonl")
    parser.add_argument("--plot")
    return parser.parse_args()


def wanted(part: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Returns the rows of a part."""
    if part == "sizes":
        return list(SIZES)
    rows = []
    for topology in WEAK:
        side = int(topology.split("x")[-1])
        mesh = {f"partitioning.MeshConfig.{axis}": size for axis, size in (("data", side * side), ("fsdp", 1))}
        rows.append(("base", "tpu_v5e_16", topology, {"BATCH_SIZE": WINDOWS_A_CHIP * side * side, **mesh}))
    return rows


def main() -> None:
    """Compiles missing rows and prints the tables."""
    options = arguments()
    path = Path(options.output)
    for part in options.parts.split(","):
        rows = []
        for size, hardware, topology, bindings in wanted(part):
            key = {"part": part, "size": size, "hardware": hardware, "topology": topology, "bindings": bindings}
            make = functools.partial(compiled, size, hardware, topology, bindings)
            rows.append(find_or_make(path, key, make))
        report(rows)
        if options.plot and part == "weak":
            plot(rows, Path(options.plot))


def train_of(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the training step's figures of a report."""
    return row["steps"]["train"] if "steps" in row else row


def report(rows: list[dict[str, Any]]) -> None:
    """Prints a Markdown table."""
    print("| size | slice | more | fits | HBM GB | TFLOP | HBM traffic GB | sent GB | least ms | MFU at most |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        train = train_of(row)
        more = ", ".join(f"{name.split('.')[-1]}={value}" for name, value in row["bindings"].items())
        seconds, utilisation = train["roofline"]["seconds"], train.get("mfu_bound")
        print(
            f"| {row['size']} | {row['topology']}, `{row['hardware']}` | {more} | {'yes' if train['fits'] else 'no'} "
            f"| {(train['peak_hbm_bytes'] + train['code_bytes']) / 1e9:.2f} | {train['flops'] / 1e12:.2f} "
            f"| {train['hbm_bytes_accessed'] / 1e9:.1f} | {train['wire_bytes'] / 1e9:.2f} | {seconds * 1e3:.1f} "
            f"| {'' if utilisation is None else f'{utilisation:.0%}'} |"
        )


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plots the work per chip against the number of chips, relative to the smallest slice."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.5, 3.6))
    chips = [row["bindings"]["BATCH_SIZE"] // WINDOWS_A_CHIP for row in rows]
    steps = [train_of(row) for row in rows]
    for key, title in (
        ("flops", "operations"),
        ("hbm_bytes_accessed", "HBM traffic"),
        ("collective_bytes", "bytes in collectives"),
        ("wire_bytes", "bytes sent"),
    ):
        axis.plot(chips, [step[key] / steps[0][key] for step in steps], marker="o", label=title)
    axis.set_xscale("log", base=2)
    axis.set_xticks(chips, [str(number) for number in chips])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("chips (v5e), 8 windows each")
    axis.set_ylabel(f"per chip and step, relative to {chips[0]} chips")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
