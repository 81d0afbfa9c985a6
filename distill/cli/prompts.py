"""``distill prompt``: prints a shipped prompt."""

import argparse

from distill.teacher.prompts import templates


def prompt_command(options: argparse.Namespace) -> int:
    """``distill prompt``. Raises ValueError, which lists the prompts, if there is none of this name."""
    print(templates.source(options.name), end="")
    return 0
