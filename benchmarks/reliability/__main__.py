"""Runs every part, and prints a table; ``--output`` also writes it as Markdown and JSON.

    python -m benchmarks.reliability [--quick] [--only=kills,disk_full] [--output=reliability]

The whole takes hours on two cores; ``--quick`` makes a few trials of each part. The exit code is 1 if anything was lost,
silent or executed.
"""

import argparse
import datetime
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping

from benchmarks.reliability import disk_full, hostile, kills, signals, storage, teacher_kills
from benchmarks.reliability.rows import Row, markdown
from distill.training import provenance


def _damage(count: int) -> list[Row]:
    from benchmarks.reliability import damage

    started = time.monotonic()
    found = damage.run(count, 0)
    tried, lost, silent = (sum(getattr(row, name) for row in found) for name in ("tried", "lost", "silent"))
    kinds = "; ".join(f"{row.what}: {row.tried}" for row in found)
    promise = "damage of a checkpoint is named, and an intact step restored"
    return [Row(promise, kinds, tried, lost, silent, seconds=time.monotonic() - started)]


# Each part, in full and quickly.
PARTS: Mapping[str, tuple[Callable[[], list[Row]], Callable[[], list[Row]]]] = {
    "damage": (lambda: _damage(1000), lambda: _damage(40)),
    "kills": (lambda: kills.run((2, 4), 20), lambda: kills.run((2,), 6)),
    "signals": (lambda: signals.run(20), lambda: signals.run(4)),
    "disk_full": (disk_full.run, lambda: disk_full.run((0, 16384))),
    "storage": (storage.run, lambda: storage.run(("train", "restore"))),
    "teacher_kills": (lambda: teacher_kills.run(20), lambda: teacher_kills.run(5)),
    "hostile": (hostile.run, hostile.run),
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few trials of each part")
    parser.add_argument("--only", default="", help=f"parts, comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--output", type=pathlib.Path, help="writes OUTPUT.md and OUTPUT.json")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name] or list(PARTS)
    if unknown := sorted(set(names) - set(PARTS)):
        parser.error(f"unknown parts {unknown}; there are {', '.join(PARTS)}")
    rows: list[Row] = []
    for name in names:
        rows += PARTS[name][options.quick]()
        print(markdown(rows), *(fault for row in rows for fault in row.faults), sep="\n", flush=True)
        if options.output:
            where = f"{provenance.processor()}, {os.cpu_count()} cores, {datetime.date.today()}"
            options.output.with_suffix(".md").write_text(f"{markdown(rows)}\n{where}\n")
            content = {"where": where, "quick": options.quick, "rows": [vars(row) for row in rows]}
            options.output.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    raise SystemExit(not all(row.good for row in rows))


if __name__ == "__main__":
    main()
