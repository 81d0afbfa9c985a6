"""Memory of a local cache build against the number of rows: synthetic rows of JSON, one task, bytes as tokens.

Each build runs in a separate process. While it writes, its resident set is sampled (``/proc``, so on Linux), and each
sample is printed at once. At the end, the kernel's peak resident set, the wall-clock time and the processor time of the
build are printed, all without the start of Python. A build that is stopped by ``--seconds`` reports the rows it wrote.

    python -m benchmarks.cache_memory [--rows=100000,500000] [--samples=10] [--seconds=1500] [--task=label] [--shards=4]
        [--directory=DIR]
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 2**20


class OutOfTime(Exception):
    """The build took longer than ``--seconds``."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="100000,500000", help="numbers of rows, one build each")
    parser.add_argument("--samples", type=int, default=10, help="samples of the resident set per build")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop a build after this time")
    parser.add_argument("--task", default="label", help="label, rationale, single, paired or shared")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--directory", help="working folder (default: a temporary folder, deleted afterwards)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def write(path: Path, rows: int) -> None:
    """Writes sums with the way to the answer, about 90 bytes each."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            a, b = number % 9973, number % 7919
            row = {"input": f"What is {a} and {b}?", "label": str(a + b), "rationale": f"{a} plus {b} is {a + b}."}
            file.write(json.dumps(row) + "\n")


def resident() -> int:
    """Returns the bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def child(source: str, output: str, options: argparse.Namespace) -> None:
    from distill.data import cache
    from distill.tasks import jsonl, registration

    dataset = jsonl.dataset({"train": source}, name="memory", several_rationales=False, validation_fraction=0.0)
    names = registration.register(dataset, "bytes")
    task = getattr(names, options.task)
    started, used = time.monotonic(), processor_seconds()
    written, sampled = 0, 0

    def sample(_task: str, _split: str, rows: int, total: int) -> None:
        nonlocal written, sampled
        written = rows
        if time.monotonic() - started > options.seconds:
            raise OutOfTime
        if rows >= (sampled + 1) * total / options.samples:
            sampled += 1
            print(json.dumps({"rows": rows, "resident": resident()}), flush=True)

    try:
        built = cache.build((task,), output, shards=options.shards, on_progress=sample)
    except OutOfTime:
        pass
    else:
        (entry,) = built.manifest["tasks"][task].values()
        written = entry["examples"]
    found = {
        "written": written,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": time.monotonic() - started,
        "processor": processor_seconds() - used,
    }
    print(json.dumps(found), flush=True)


def build(rows: int, work: Path, options: argparse.Namespace) -> None:
    """Builds one cache in another process, and prints its samples and its total."""
    source = work / "rows.jsonl"
    write(source, rows)
    command = [
        *(sys.executable, "-m", "benchmarks.cache_memory", f"--task={options.task}", f"--shards={options.shards}"),
        *(f"--samples={options.samples}", f"--seconds={options.seconds}", "--child", source, work / "cache"),
    ]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = {}
    for line in process.stdout:
        found = json.loads(line)
        if "rows" in found:
            print(f"{found['rows']:9,} written, resident set {found['resident'] / MIB:6.0f} MiB", flush=True)
    if process.wait() != 0 or "written" not in found:
        raise RuntimeError(f"the build of {rows:,} rows ended with exit code {process.returncode}; its error is above")
    stopped = "" if found["written"] == rows else f" (stopped after --seconds={options.seconds:g})"
    print(
        f"{found['written']:9,} of {rows:,} rows{stopped}: {source.stat().st_size / MIB:.1f} MiB of JSON, peak resident "
        f"set {found['peak'] / MIB:.0f} MiB, {found['seconds']:.0f} s, {found['processor']:.0f} s of processor time",
        flush=True,
    )
    for folder in work.glob("cache*"):
        shutil.rmtree(folder)


def main() -> None:
    options = arguments()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.child:
        source, output = options.child
        child(source, output, options)
        return
    work = Path(tempfile.mkdtemp(prefix="cache-memory-", dir=options.directory))
    try:
        for rows in map(int, options.rows.split(",")):
            build(rows, work, options)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
