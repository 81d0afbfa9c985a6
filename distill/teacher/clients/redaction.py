"""Removal of secrets from texts before they are logged, reported or stored."""

import os
import re
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

REMOVED = "[secret removed]"
_SHORTEST = 4  # a shorter "secret" is a placeholder; removing it would corrupt ordinary text


class Redactor:
    """Removes known secrets from texts.

    Args:
      secrets: API keys, tokens, passwords. Very short ones (placeholders such as "x") are ignored.
    """

    def __init__(self, secrets: Iterable[str] = ()):
        known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        """``text`` without the secrets."""
        return text if self._pattern is None else self._pattern.sub(REMOVED, text)

    def __repr__(self) -> str:
        return "Redactor()"


def secret_from_environment(variable: str) -> str | None:
    """The value of an environment variable, without surrounding white space; None if unset or blank."""
    return (os.environ.get(variable) or "").strip() or None


def public_url(url: str) -> str:
    """``url`` without user, password, query and fragment, all of which can hold secrets.

    >>> public_url("https://me:pw@host:8000/v1?key=abc")
    'https://host:8000/v1'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
