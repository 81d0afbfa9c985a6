"""Writes a report: HTML, and its twins in Markdown, CSV and PNG."""

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

from distill import atomic_files
from distill.experiments.report import figure, html, limits, markdown, sections, settings, table
from distill.experiments.report.analysis import Analysis, Options, analyse
from distill.experiments.report.blocks import Document
from distill.experiments.report.collect import SOFTWARE, Collection, Unfinished, check_output, collect
from distill.experiments.report.text import one_line


@dataclasses.dataclass(frozen=True)
class Written:
    """A report: its document, the analyses it shows, the files that were written, and the runs that it lacks."""

    document: Document
    analyses: tuple[Analysis, ...]
    files: tuple[Path, ...]
    unfinished: tuple[Unfinished, ...] = ()


def build(collection: Collection, options: Options, source: str) -> tuple[Document, tuple[Analysis, ...]]:
    """Returns the contents of a report on runs.

    Args:
      collection: the runs.
      options: the user's choices.
      source: where the runs come from, for the title.

    Raises:
      ReportError: the runs cannot be reported on together; the message names the remedy.
    """
    parts = settings.parts(collection, options.data)
    analyses = tuple(analyse(part, options) for part in parts)
    kept = {run for part in parts for run in part.runs}
    made = []
    for place, analysis in enumerate(analyses):
        several = len(analyses) > 1
        suffix = f" · test data {analysis.part.data_name}" if several else ""
        made += sections.of(analysis, collection.unfinished, f"data{place}-" if several else "", suffix)
    rest = sections.unfinished_section(collection.unfinished)
    made += [rest] if rest else []
    dates = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    count = f"{len(kept)} runs" if len(kept) != 1 else "one run"
    data = f" on {len(parts)} sets of test rows" if len(parts) > 1 else f", test data {parts[0].data_name}"
    title = one_line(options.title or f"Report on {source}", 120)
    subtitle = f"{count}{data} · written {dates} by {SOFTWARE}"
    return Document(title, subtitle, tuple(made), limits.not_shown(collection.unfinished)), analyses


def write(
    paths: Sequence[str | Path],
    output: str | Path,
    options: Options = Options(),
    collection: Collection | None = None,
    *,
    overwrite: bool = False,
) -> Written:
    """Reports on runs.

    Args:
      paths: folders of sweeps or runs.
      output: the HTML file; its twins have the same name with ``.md``, ``.csv`` and ``.png``.
      options: the user's choices.
      collection: what :func:`~distill.experiments.report.collect.collect` returned for the paths; None reads them.
      overwrite: replace files in the place of the output and its twins that are no report.

    Raises:
      ReportError: no report can be made of these runs; nothing is written.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite)
    collection = collect(paths) if collection is None else collection
    names = ", ".join(Path(path).resolve().name for path in paths[:3]) + (" …" if len(paths) > 3 else "")
    document, analyses = build(collection, options, names)
    files = []

    def put(suffix: str, content: str) -> None:
        path = output.with_suffix(suffix)
        atomic_files.replace(path, content)
        files.append(path)

    picture = figure.png(document)
    put(".html", html.render(document))
    put(".md", markdown.render(document, output.with_suffix(".png").name if picture else None))
    put(".csv", table.csv_text([analysis.part for analysis in analyses], collection.unfinished))
    if picture:
        path = output.with_suffix(".png")
        atomic_files.replace(path, picture)
        files.append(path)
    return Written(document, analyses, tuple(files), collection.unfinished)
