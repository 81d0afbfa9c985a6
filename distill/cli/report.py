"""``distill report``."""

import argparse
import sys
from pathlib import Path


def report_command(options: argparse.Namespace) -> int:
    """Writes a report on runs, and prints what it found and the files."""
    import textwrap

    from distill.experiments.report import findings, proposals, write
    from distill.experiments.report.analysis import Options

    chosen = Options(
        title=options.title,
        metric=options.metric,
        data=options.data,
        compare=options.compare,
        price_per_chip_hour=options.price_per_chip_hour,
    )
    written = write.write([Path(path) for path in options.runs], options.output, chosen)
    for analysis in written.analyses:
        for sentence in findings.sentences(analysis):
            print(textwrap.fill(sentence, 100, break_long_words=False, break_on_hyphens=False))
        for sentence, recipe in proposals.next_sentences(analysis):
            print(textwrap.fill(sentence, 100, break_long_words=False, break_on_hyphens=False))
            print(*(text.rstrip() for text in recipe if text), sep="\n")
        for warning in findings.warnings(analysis, written.unfinished):
            print(f"warning: {warning}", file=sys.stderr)
    print("  ".join(map(str, written.files)))
    return 0
