"""``distill report``."""

import argparse
import sys
from pathlib import Path

from distill.counting import counted


def report_command(options: argparse.Namespace) -> int:
    """Writes a report on runs, and prints what it found and the files.

    It reads files and imports neither TensorFlow nor JAX. The runs are read before the libraries of the analysis are
    imported, which takes seconds: a mistake in the arguments is reported at once.
    """
    import textwrap

    from distill.experiments.report import collect

    paths = [Path(path) for path in options.runs]
    collect.check_output(Path(options.output), overwrite=options.overwrite)
    _say(f"reading {', '.join(map(str, paths[:3]))}{' …' if len(paths) > 3 else ''}")
    collection = collect.collect(paths)
    _say(f"{counted(len(collection.runs))}; comparing them and drawing charts")

    from distill.experiments.report import findings, limits, proposals, write
    from distill.experiments.report.analysis import Options
    from distill.training import event_files

    event_files.without_tensorflow()
    chosen = Options(
        title=options.title,
        metric=options.metric,
        data=options.data,
        compare=options.compare,
        price_per_chip_hour=options.price_per_chip_hour,
    )
    written = write.write(paths, options.output, chosen, collection, overwrite=options.overwrite)
    for analysis in written.analyses:
        for sentence in findings.sentences(analysis):
            print(textwrap.fill(sentence, 100, break_long_words=False, break_on_hyphens=False))
        steps = proposals.next_sentences(analysis, written.unfinished)
        if len(steps) > 1:
            print(proposals.order(analysis))
        for sentence, recipe in steps:
            print(textwrap.fill(sentence, 100, break_long_words=False, break_on_hyphens=False))
            print(*(text.rstrip() for text in recipe if text), sep="\n")
        for warning in limits.warnings(analysis, written.unfinished):
            print(f"warning: {warning}", file=sys.stderr)
    print("  ".join(map(str, written.files)))
    return 0


def _say(text: str) -> None:
    print(f"distill report: {text}", file=sys.stderr, flush=True)
