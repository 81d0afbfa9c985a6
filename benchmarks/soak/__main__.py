"""The command line; ``python -m benchmarks.soak --help`` prints the description of the package."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import soak
from benchmarks.soak import extract, infer, train
from benchmarks.soak.plot import plot
from benchmarks.soak.sampling import Sampler
from benchmarks.soak.verdict import UNITS, read, table, verdict

LEGS = tuple(UNITS)


def report(directory: Path) -> bool:
    """Prints the legs' verdicts; writes ``verdict.json`` and ``soak.png`` into ``directory``. Returns whether all pass."""
    found = []
    for leg in LEGS:
        if (directory / f"{leg}.jsonl").exists():
            try:
                found.append(verdict(leg, *read(directory / f"{leg}.jsonl")))
            except ValueError as error:
                print(f"{leg}: {error}")
                continue
            print(table(found[-1]))
    if not found:
        raise SystemExit(f"{directory} has no leg to judge ({', '.join(f'{leg}.jsonl' for leg in LEGS)})")
    (directory / "verdict.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"{directory / 'verdict.json'}, {plot(directory, [each['leg'] for each in found])}")
    return all(each["passed"] for each in found)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=soak.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("legs", nargs="*", choices=[*LEGS, []], help="the legs to run, one after the other")
    parser.add_argument("--minutes", type=float, default=60, help="minutes of each leg; default: 60")
    parser.add_argument("--restart_minutes", type=float, default=5, help="minutes between restarts; default: 5")
    parser.add_argument("--period", type=float, default=10, help="seconds between samples; default: 10")
    parser.add_argument("--directory", default="build/soak", help="folder of all output; default: build/soak")
    parser.add_argument("--report_only", action="store_true", help="print the verdict and draw the plot; run nothing")
    return parser.parse_args(given)


def main() -> int:
    options = arguments()
    directory = Path(options.directory).absolute()
    if not options.report_only and not options.legs:
        raise SystemExit(f"name at least one leg: {', '.join(LEGS)}")
    for leg in () if options.report_only else options.legs:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{leg}.jsonl").open("w") as file:
            sampler = Sampler(file, options.period)
            if leg == "train":
                train.run(directory, sampler, options.minutes, options.restart_minutes)
            else:
                {"infer": infer, "extract": extract}[leg].run(directory, sampler, options.minutes)
    return 0 if report(directory) else 1


if __name__ == "__main__":
    sys.exit(main())
