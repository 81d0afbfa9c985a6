"""The samples of the legs as a picture."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.soak.verdict import UNITS, blocks, per_unit, read


def plot(directory: Path, legs: Sequence[str]) -> Path:
    """Draws the samples of the legs to ``soak.png``: memory, open files and threads, processor and wall time per unit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(legs), 3, figsize=(13, 3 * len(legs)), squeeze=False, layout="constrained")
    for row, leg in zip(axes, legs):
        samples, ends = read(directory / f"{leg}.jsonl")
        minutes = [each["seconds"] / 60 for each in samples]
        row[0].plot(minutes, [each["rss_mb"] for each in samples], ".", ms=2, color="C0")
        row[0].set_ylabel(f"{leg}\nresident memory (MB)")
        row[0].set_ylim(bottom=0)
        row[1].plot(minutes, [each["files"] for each in samples], ".", ms=2, color="C1", label="open files")
        row[1].plot(minutes, [each["threads"] for each in samples], ".", ms=2, color="C2", label="threads")
        row[1].set_ylim(bottom=0)
        row[1].legend()
        parts = blocks(leg, samples)
        middles = [statistics.mean(each["seconds"] for each in part) / 60 for part in parts]
        for of, name, colour in (("cpu_s", "processor", "C3"), ("seconds", "wall", "C7")):
            row[2].plot(middles, [per_unit(part, of) for part in parts], "o-", ms=3, color=colour, label=f"{name} time")
        row[2].set_ylim(bottom=0)
        row[2].set_ylabel(f"ms per {UNITS[leg]}")
        row[2].legend()
        for axis in row:
            for end in ends[:-1]:
                axis.axvline(end["seconds"] / 60, color="0.85", lw=0.5, zorder=0)
    for axis in axes[-1]:
        axis.set_xlabel("minutes")
    path = directory / "soak.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
