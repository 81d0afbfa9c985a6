"""Words that a shell reads back unchanged."""

import re
import shlex
from collections.abc import Sequence

_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def words(arguments: Sequence[str]) -> str:
    """The arguments as POSIX shell text."""
    return shlex.join(arguments)


def _escaped(character: str) -> str:
    if character in "'\"\\$`" or not character.isprintable():
        return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8"))
    return character


def embedded_words(arguments: Sequence[str]) -> str:
    r"""The arguments as text for bash that may also be pasted into YAML, in a block or between double quotes.

    xpk pastes the command of a workload into a manifest unquoted, where a double quote, a backslash, a line break or
    Kubernetes' ``$(NAME)`` would be read as something else. ``$'…'`` with ``\xNN`` means the same to bash and to YAML.
    """
    return " ".join(
        word if _PLAIN.fullmatch(word) else f"$'{''.join(map(_escaped, word))}'" if word else "''" for word in arguments
    )
