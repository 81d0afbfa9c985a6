"""Draws the results of :mod:`benchmarks.accelerator.measure`."""

from pathlib import Path
from typing import Any


def draw(result: dict[str, Any], path: Path) -> None:
    """Writes a PNG of three panels: training, decoding, attention. A panel without results says so."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = {name: part.get("result") or [] for name, part in result["parts"].items()}
    training = [
        (f"{side}: {row['label']}", row.get("examples_per_second"))
        for name, rows in found.items()
        if (side := name.split("_")[0]) in ("ours", "theirs")
        for row in rows
    ]
    decoding = [row for name, rows in found.items() if name.startswith("decoding_") and rows for row in rows["results"]]
    panels = (
        ("training", "examples/s", training),
        (
            "decoding",
            "rows/s",
            [(f"{row['side']}: {row['case']}, batch {row['batch']}", row["rows_per_second"]) for row in decoding],
        ),
        (
            "one attention layer, forward and backward",
            "ms",
            [
                (f"{row['name']} {row['kind']} {row['kernel']}", row.get("milliseconds", {}).get("median"))
                for row in found.get("attention", [])
            ],
        ),
    )
    figure, axes = pyplot.subplots(1, 3, figsize=(18, 6))
    for axis, (title, unit, rows) in zip(axes, panels):
        known = [(label, value) for label, value in rows if value is not None]
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(unit)
        if not known:
            axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
            axis.set_yticks([])
            continue
        labels, values = zip(*known)
        bars = axis.barh(
            range(len(known)), values, color=["C0" if label.startswith("theirs") else "C1" for label in labels]
        )
        axis.bar_label(bars, fmt="%.3g", fontsize=7)
        axis.set_yticks(range(len(known)), labels, fontsize=7)
        axis.invert_yaxis()
    device = result["machine"]["gpu"] or "CPU"
    figure.suptitle(f"{device}, {result['machine']['date']}, JAX {result['machine']['jax']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
