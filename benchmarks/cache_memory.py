"""Peak memory of a local cache build against the number of rows: synthetic rows of JSON, one task, bytes as tokens.

Each build runs in its own process. Reported is the kernel's peak resident set of that process, from start to end.

    python -m benchmarks.cache_memory [--rows=100000,500000] [--task=label] [--shards=4] [--directory=DIR]
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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="100000,500000", help="numbers of rows, one build each")
    parser.add_argument("--task", default="label", help="label, rationale, single, paired or shared")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--directory", help="working folder (default: a temporary folder, deleted afterwards)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def write(path: Path, rows: int) -> None:
    """Writes sums with the way to the answer, about 110 bytes each."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            a, b = number % 9973, number % 7919
            row = {"input": f"What is {a} and {b}?", "label": str(a + b), "rationale": f"{a} plus {b} is {a + b}."}
            file.write(json.dumps(row) + "\n")


def child(source: str, output: str, task: str, shards: int) -> None:
    from distill.data import cache
    from distill.tasks import jsonl, registration

    dataset = jsonl.dataset({"train": source}, name="memory", several_rationales=False, validation_fraction=0.0)
    names = registration.register(dataset, "bytes")
    started = time.monotonic()
    built = cache.build((getattr(names, task),), output, shards=shards)
    (entry,) = built.manifest["tasks"][getattr(names, task)].values()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "seconds": time.monotonic() - started, "examples": entry["examples"]}))


def main() -> None:
    options = arguments()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.child:
        child(*options.child, options.task, options.shards)
        return
    work = Path(tempfile.mkdtemp(prefix="cache-memory-", dir=options.directory))
    print("     rows    file MiB    peak RSS MiB    seconds    rows/s")
    try:
        for rows in map(int, options.rows.split(",")):
            source = work / "rows.jsonl"
            write(source, rows)
            command = [
                *(sys.executable, "-m", "benchmarks.cache_memory", f"--task={options.task}"),
                *(f"--shards={options.shards}", "--child", source, work / "cache"),
            ]
            done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            if found["examples"] != rows:
                raise ValueError(f"{found['examples']:,} examples were written for {rows:,} rows")
            print(
                f"{rows:9,} {source.stat().st_size / MIB:11.1f} {found['peak'] / MIB:15.0f} {found['seconds']:10.1f} "
                f"{rows / found['seconds']:9.0f}",
                flush=True,
            )
            shutil.rmtree(work / "cache")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
