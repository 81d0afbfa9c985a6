"""Runs fuzz targets under atheris, each in its own process, and prints a table.

    python -m fuzz [--seconds=600] [--targets=rows,replies] [--workers=2] [--directory=build/fuzz]

The corpus of a target is kept in ``DIRECTORY/TARGET/corpus`` and continued by the next run. Every kind of finding is
written once to ``DIRECTORY/TARGET/findings``: the input, and beside it the traceback. The exit code is 1 if a target has
findings, and also if its process crashed, ran out of memory or did not end.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from fuzz import mutations
from fuzz.targets import TARGETS, Finding, Ready, check

_MEMORY_MB = 4096
_SLACK_S = 600  # after the budget, until a process counts as stuck


def fuzz(name: str, seconds: int, directory: Path) -> None:
    """Runs one target in this process; does not return."""
    import atheris

    each = TARGETS[name]
    with atheris.instrument_imports(include=["distill"]):
        ready = each.prepare()
    corpus, findings = directory / name / "corpus", directory / name / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(ready.seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    scratch = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    def one(data: bytes) -> None:
        nonlocal slowest
        folder = scratch / "now"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        started = time.process_time()
        try:
            outcomes[check(ready, data, folder)] += 1
            took = time.process_time() - started
            slowest = max(slowest, took)
            if took > each.seconds:
                raise Finding(f"{took:.1f} s of processor time for {len(data)} bytes; the limit is {each.seconds} s")
        except Exception as error:
            outcomes["finding"] += 1
            note(findings, data, error)
        if sum(outcomes.values()) % 50 == 0:
            values = {"runs": sum(outcomes.values()), "outcomes": dict(outcomes), "slowest_s": round(slowest, 3)}
            (directory / name / "state.json").write_text(json.dumps(values))

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.3:
            return atheris.Mutate(data, most)
        return mutations.mutated(data or draw.choice(ready.seeds), each.kind, draw, each.words)[:most]

    options = ["-max_len=65536", f"-max_total_time={seconds}", f"-timeout={int(10 * each.seconds)}", "-verbosity=0"]
    options += [f"-rss_limit_mb={_MEMORY_MB}", f"-artifact_prefix={findings}/", "-report_slow_units=1000", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutate)
    atheris.Fuzz()


def note(findings: Path, data: bytes, error: Exception) -> None:
    """Writes a finding, unless one with the same error at the same place was written before."""
    places = traceback.extract_tb(error.__traceback__)
    own = [place for place in places if "/fuzz/" not in place.filename] or list(places)
    where = f"{own[-1].filename}:{own[-1].lineno}"
    words = re.sub(r"[\d.]+", "0", str(error))[:60] if isinstance(error, Finding) else ""
    name = hashlib.sha256(f"{type(error).__name__} {where} {words}".encode()).hexdigest()[:12]
    if not (findings / name).exists():
        (findings / name).write_bytes(data)
        lines = "".join(traceback.format_exception(error))
        (findings / f"{name}.txt").write_text(lines, encoding="utf-8", errors="backslashreplace")


def run(name: str, seconds: int, directory: Path) -> dict[str, object]:
    """Runs one target in a new process; returns its row of the table."""
    folder = directory / name
    shutil.rmtree(folder / "findings", ignore_errors=True)
    (folder / "state.json").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fuzz", f"--only={name}", f"--seconds={seconds}", f"--directory={directory}"]
    started = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            code: int | str = process.wait(seconds + _SLACK_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = "stuck"
    state = json.loads((folder / "state.json").read_text()) if (folder / "state.json").exists() else {}
    found = sorted(path.name for path in (folder / "findings").glob("*") if path.suffix != ".txt")
    return {
        "target": name,
        "seconds": round(time.monotonic() - started),
        "runs": state.get("runs", 0),
        "slowest_s": state.get("slowest_s", 0.0),
        "values": state.get("outcomes", {}).get("value", 0),
        "corpus": len(list((folder / "corpus").glob("*"))),
        "findings": found,
        "exit_code": code,
    }


def table(rows: list[dict[str, object]]) -> str:
    """The outcomes in lines to print."""
    lines = [f"{'target':22} {'s':>5} {'inputs':>9} {'accepted':>9} {'corpus':>7} {'slowest':>8}  findings"]
    for row in rows:
        found = row["findings"]
        assert isinstance(found, list)
        trouble = ", ".join(found) or ("none" if row["exit_code"] == 0 else f"exit code {row['exit_code']}")
        lines.append(
            f"{row['target']:22} {row['seconds']:>5} {row['runs']:>9,} {row['values']:>9,} {row['corpus']:>7,} "
            f"{row['slowest_s']:>7} s  {trouble}"
        )
    return "\n".join(lines)


def replay(name: str, path: Path) -> None:
    """Gives one stored input to a target, and lets its error through."""
    ready: Ready = TARGETS[name].prepare()
    with tempfile.TemporaryDirectory() as scratch:
        print(check(ready, path.read_bytes(), Path(scratch)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="seconds per target; default: 600")
    parser.add_argument("--targets", default=",".join(TARGETS), help="names, separated by commas; default: all")
    parser.add_argument("--workers", type=int, default=1, help="targets that run at the same time; default: 1")
    parser.add_argument("--directory", default="build/fuzz", help="folder of corpora and findings; default: build/fuzz")
    parser.add_argument("--replay", metavar="FILE", help="give this input to the one target that --targets names")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    directory = Path(options.directory).absolute()
    names = options.targets.split(",")
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; the targets are {', '.join(TARGETS)}")
    if options.only:
        fuzz(options.only, options.seconds, directory)
    if options.replay:
        replay(names[0], Path(options.replay))
        return 0
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        rows = list(pool.map(lambda name: run(name, options.seconds, directory), names))
    print(table(rows))
    (directory / "table.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["findings"] or row["exit_code"] != 0 for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
