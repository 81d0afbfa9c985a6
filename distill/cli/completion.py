"""``distill completion``."""

import argparse

from distill.cli import parser


def completion_command(options: argparse.Namespace) -> int:
    """Prints the completion script of a shell."""
    import shtab

    print(shtab.complete(parser.parser("extract"), options.shell))
    return 0
