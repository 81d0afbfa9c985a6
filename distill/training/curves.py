"""``curves.png``: a run's losses, its effective λ and its validation metrics over the steps."""

import io
from collections.abc import Mapping, Sequence

from etils import epath

from distill import atomic_files
from distill.training import event_files

FILE = "curves.png"
# A palette for colour-blind readers (Paul Tol's "bright").
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
_LOSSES = {"train/loss/label": "label", "train/loss/rationale": "rationale", "train/loss": "weighted sum"}


def draw(model_dir: epath.PathLike, validation_split: str | None, metric: str | None) -> epath.Path:
    """Draws the event files of a run into ``<model_dir>/curves.png``.

    Args:
      model_dir: local or ``gs://``.
      validation_split: the split whose metrics are drawn; None draws none.
      metric: the metric that selected the best parameters; its ``_low`` and ``_high``, where logged, are drawn as a band.

    Returns:
      The file.
    """
    scalars = event_files.read(epath.Path(model_dir) / "logs")
    path = epath.Path(model_dir) / FILE
    atomic_files.replace(path, _figure(scalars, validation_split, metric))
    return path


def _figure(scalars: Mapping[str, Sequence[tuple[int, float]]], split: str | None, metric: str | None) -> bytes:
    # pyplot would keep figures and a backend for the whole process. savefig and a constrained layout compute positions
    # three times, which is two thirds of the time: fixed margins and print_png draw once.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 3.6), dpi=120)
    canvas = FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.14, top=0.91, wspace=0.17)
    loss, weight, score = figure.subplots(1, 3)
    for colour, (tag, name) in zip(COLOURS, _LOSSES.items()):
        if points := scalars.get(tag):
            loss.plot(*zip(*points), color=colour, label=name, marker=_marker(points))
    loss.set_title("training loss (tasks: nats per target token)")
    if points := scalars.get("train/effective_lambda"):
        # Sums of float32 weights: more digits are rounding, which would be drawn as a curve.
        shown = [(step, float(f"{value:.5g}")) for step, value in points]
        weight.plot(*zip(*shown), color=COLOURS[0], marker=_marker(points))
    weight.ticklabel_format(axis="y", useOffset=False)
    weight.set_title("effective λ")
    if split is not None and metric is not None:
        points = scalars.get(f"{split}/{metric}", [])
        score.plot(*(zip(*points) if points else ([], [])), color=COLOURS[0], label=metric, marker=_marker(points))
        low, high = (dict(scalars.get(f"{split}/{metric}_{end}", [])) for end in ("low", "high"))
        both = sorted(low.keys() & high.keys())
        if both:
            band = [low[step] for step in both], [high[step] for step in both]
            score.fill_between(both, *band, color=COLOURS[0], alpha=0.15, linewidth=0, label="95 % interval")
    score.set_title(f"{split or 'no validation'}")
    for axes in (loss, weight, score):
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    out = io.BytesIO()
    canvas.print_png(out)
    return out.getvalue()


def _marker(points: Sequence[object]) -> str | None:
    return "o" if len(points) < 30 else None
