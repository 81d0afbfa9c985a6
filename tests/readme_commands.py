"""README's commands: taken from its shell blocks, and run in order in a folder.

The executable can be swapped: ``runner`` is what stands for the word ``distill``, such as an installed console script.
"""

import os
import pathlib
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
INSTALLATION = ("pip", "git", "cd")
"""Commands that set a machine up, which the environment of the tests has done already."""


def section(text: str, number: int = 1) -> str:
    """The ``number``-th section of a page, from its heading of the second level to the next.

    Raises:
      IndexError: the page has fewer sections.
    """
    return re.split(r"^## ", text, flags=re.MULTILINE)[number]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in the page's ``sh`` blocks; comments and continued lines as a shell reads them."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def run(
    given: Sequence[Sequence[str]],
    folder: pathlib.Path,
    runner: Sequence[str],
    added: Mapping[str, Sequence[str]],
    environment: Mapping[str, str],
) -> list[str]:
    """Runs commands one after another in ``folder``, and returns what each printed.

    Args:
      given: words of each command; those of :data:`INSTALLATION` are left out.
      folder: where they run.
      runner: what to run for ``distill``.
      added: subcommand of ``distill`` → arguments to append.
      environment: variables to set, beside those of this process.

    Raises:
      AssertionError: a command did not end with 0; the message holds what it wrote.
      ValueError: a command that is neither ``distill``, nor ``cat``, nor of the installation.
    """
    printed = []
    for words in given:
        if words[0] in INSTALLATION:
            continue
        if words[0] == "distill":
            words = [*runner, *words[1:], *added.get(words[1], ())]
        elif words[0] != "cat":
            raise ValueError(f"README runs {words[0]!r}; the test runs distill and cat only")
        ended = subprocess.run(words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
        assert ended.returncode == 0, (
            f"{shlex.join(words)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
        )
        printed.append(ended.stdout)
    return printed
