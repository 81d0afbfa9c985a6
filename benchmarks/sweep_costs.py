"""The runs and operations of each shipped sweep, against the line ``# Cost:`` in its header.

    python -m benchmarks.sweep_costs [NAME…]

No data is read and nothing is trained: operations are those that ``distill sweep --dry_run`` prints, of matrix products
forwards and backwards, padding included. A common start is not counted. Ends with 1 if a header differs.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from distill.api import tensorflow_log
from distill.experiments import sweep
from distill.experiments.sweep import estimates

FOLDER = Path(__file__).resolve().parents[1] / "gin" / "sweeps"
LINE = re.compile(r"^# Cost: ([\d,]+) runs, ([\d.e+]+) operations", re.MULTILINE)
PER_SECOND = 8.7e9
"""Operations per second of one core of an AMD EPYC (Zen 5), shared with other work: demo_rates.yaml's 1.51e13 in 0.48
core-hours, compilation and evaluation included (docs/demo_rates.md, 26 November 2026)."""


def header(path: Path) -> tuple[int, float] | None:
    """The runs and operations that a sweep file's header names; None without such a line."""
    found = LINE.search(path.read_text(encoding="utf-8"))
    return None if found is None else (int(found[1].replace(",", "")), float(found[2]))


def count(path: Path, directory: str = "out") -> tuple[int, float]:
    """The runs of a sweep and the operations of all their updates.

    Args:
      path: the sweep file.
      directory: where the sweep would be; nothing is written there but the demo's vocabulary.
    """
    from distill.cli import experiments, sweep_checks

    made = sweep.read(path, directory)
    made = made.with_bindings(
        ["VOCABULARY_PATH = 'bytes'", f"DATA_DIR = {directory!r}"][: 2 if _reads_files(path) else 1]
    )
    options = argparse.Namespace(gin_search_paths="", gin_module=[])
    found = sweep_checks.Configurations(made, lambda run: experiments.configure_run(run, options))
    runs = found.resolve(made) if made.search is None else found.probes()
    found.describe(runs)
    if made.search is not None:
        runs = runs[:1] * (made.search.trials * max(1, len(made.seeds())))
    return len(runs), estimates.forecast(runs, found.costs).flops


def _reads_files(path: Path) -> bool:
    return not path.stem.startswith(("demo", "encoder_pass", "methods", "reader"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the costs; returns 1 if a header differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="sweeps, without folder and suffix; default: all that ship")
    names = parser.parse_args(arguments).names
    tensorflow_log.import_quietly()
    wrong = 0
    for path in sorted(FOLDER.glob("*.yaml")):
        if names and path.stem not in names:
            continue
        runs, operations = count(path)
        given = header(path)
        same = given is not None and given == (runs, float(f"{operations:.3g}"))
        wrong += not same
        hours, note = operations / PER_SECOND / 3600, "" if same else f"; header {given}"
        print(f"{path.stem}: {runs} runs, {operations:.3g} operations, {hours:.2g} core-hours{note}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
