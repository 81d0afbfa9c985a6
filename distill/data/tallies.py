"""What a report on a data set counts: lengths, unknown tokens, agreement."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.tasks import lengths as measuring
from distill.tasks import metrics

PERCENTILES = (50, 90, 95, 99, 100)


class Lengths:
    """Lengths in tokens: their distribution, and the share above a limit."""

    def __init__(self, limit: int | None):
        self._limit, self._lengths = limit, []  # type: tuple[int | None, list[int]]

    def add(self, length: int) -> str | None:
        """Adds the tokens of a sequence; returns them with the limit in words if they exceed it."""
        self._lengths.append(length)
        return f"{length} > {self._limit}" if self._limit is not None and length > self._limit else None

    def summary(self) -> dict[str, Any]:
        """``sequences``, and if there are any ``mean``, percentiles, ``limit`` and the share ``truncated``."""
        values = np.array(self._lengths, np.int64)
        if not len(values):
            return {"sequences": 0}
        result: dict[str, Any] = {"sequences": len(values), "mean": round(float(values.mean()), 2)}
        result |= {f"p{q}": int(v) for q, v in zip(PERCENTILES, np.percentile(values, PERCENTILES, method="higher"))}
        if self._limit is not None:
            result |= {"limit": self._limit, "truncated": float((values > self._limit).mean())}
        return result


class Unknown:
    """Counts the texts of a kind that have tokens unknown to the vocabulary, and names their characters."""

    def __init__(self, ruler: measuring.Ruler):
        self._ruler, self._texts, self.having = ruler, 0, 0
        self._known: dict[str, bool] = {}
        self._characters: collections.Counter[str] = collections.Counter()

    def add(self, text: str, unknown: bool) -> None:
        """Adds a text, and whether it has an unknown token."""
        self._texts += 1
        if not unknown:
            return
        self.having += 1
        for character in set(text):
            if character not in self._known:
                self._known[character] = not self._ruler.unknown(f"a{character}")
            self._characters[character] += not self._known[character]

    def summary(self) -> dict[str, Any]:
        """``texts``, how many are ``unknown`` in part, and how many of these have each unknown character."""
        named = sorted(((character, n) for character, n in self._characters.items() if n), key=lambda x: (-x[1], x[0]))
        return {"texts": self._texts, "unknown": self.having, "characters": dict(named)}


def agreement(right: Sequence[bool]) -> dict[str, Any] | None:
    """The ``share`` of ``rows`` that are right, with its interval; None without rows."""
    return metrics.share("share", sum(right), len(right)) | {"rows": len(right)} if right else None
