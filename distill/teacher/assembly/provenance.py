"""Summary of the origin of a record set's rationales, for the report and a student's model card."""

import collections
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from distill.tasks import sources
from distill.tasks.records import SourceError
from distill.teacher.clients.replies import Usage
from distill.validation import quoted

_TEXTS = ("teacher", "model", "date")


@dataclasses.dataclass(frozen=True)
class Origin:
    """One teacher with one prompt and one set of sampling settings.

    Attributes:
      teacher, model: its name in the job and on the server.
      prompt, prompt_hash: the prompt file's name, and the beginning of its SHA-256.
      settings: sampling settings.
      rows: rows with its answers.
      usage: tokens, if the server reported them.
      first, last: dates, ISO 8601.
    """

    teacher: str
    model: str
    prompt: str
    prompt_hash: str
    settings: Mapping[str, Any]
    rows: int
    usage: Usage
    first: str
    last: str


@dataclasses.dataclass(frozen=True)
class Summary:
    """All origins of a record set.

    Attributes:
      rows: rows in the set.
      explained: rows with at least one rationale.
      rationalised: rows whose rationale was written for a given answer.
      origins: by teacher, model, prompt and settings; the one with the most rows first.
    """

    rows: int
    explained: int
    rationalised: int
    origins: tuple[Origin, ...]

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return dataclasses.asdict(self)

    def model_card(self) -> str:
        """A Markdown section for a model card."""
        lines = [
            "## Teacher",
            "",
            f"{self.explained:,} of {self.rows:,} training rows carry rationales written by a language model"
            + (f", {self.rationalised:,} of them for an answer that was given." if self.rationalised else "."),
            "",
        ]
        if self.origins:
            lines += [
                "| teacher | model | prompt | settings | rows | tokens read / written | dates |",
                "|---|---|---|---|---|---|---|",
            ]
        for origin in self.origins:
            settings = ", ".join(f"{name} {value}" for name, value in origin.settings.items() if value is not None)
            dates = (
                origin.first[:10]
                if origin.first[:10] == origin.last[:10]
                else f"{origin.first[:10]} – {origin.last[:10]}"
            )
            cells = (
                origin.teacher,
                origin.model,
                f"{origin.prompt} `{origin.prompt_hash}`",
                settings,
                f"{origin.rows:,}",
                f"{origin.usage.prompt_tokens:,} / {origin.usage.completion_tokens:,}",
                dates,
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        return "\n".join(lines) + "\n"


def problem(provenance: Mapping[str, Any]) -> str | None:
    """Returns in which way a row's ``provenance`` is not one that ``extract`` writes, or None; absent fields are none."""
    asked = provenance.get("teachers", [])
    if not isinstance(asked, list) or not all(isinstance(one, Mapping) for one in asked):
        return f"teachers must be a list of objects; got {quoted(asked)}"
    for place, names in ((provenance, ("prompt", "prompt_hash")), *((one, _TEXTS) for one in asked)):
        wrong = next((name for name in names if not isinstance(place.get(name, ""), str)), None)
        if wrong is not None:
            return f"{wrong} must be a text; got {quoted(place[wrong])}"
    for one in asked:
        settings, usage = one.get("settings", {}), one.get("usage")
        if not isinstance(settings, Mapping):
            return f"settings must be an object; got {quoted(settings)}"
        if usage is not None and not (isinstance(usage, list) and [type(number) for number in usage] == [int, int]):
            return f"usage must be two integers; got {quoted(usage)}"
    votes, voters = provenance.get("votes", 1), provenance.get("voters", 1)
    if type(votes) is not int or type(voters) is not int or not 0 <= votes <= voters:
        return (
            f"votes and voters must be integers, 0 ≤ votes ≤ voters; got {quoted(votes, 40)} and {quoted(voters, 40)}"
        )
    return None


def checked(provenance: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Returns ``provenance``. Raises SourceError, which begins with ``where``, if it has a :func:`problem`."""
    if (trouble := problem(provenance)) is not None:
        raise SourceError(
            f"{where}: provenance is not that of `distill extract`: {trouble}; rename or remove the field"
        )
    return provenance


def summarise(rows: str | os.PathLike[str] | Iterable[Mapping[str, Any]]) -> Summary:
    """Reads the provenance that the teacher's rows carry.

    Args:
      rows: a JSON-lines file written by ``extract``, or its rows. Rows without provenance are only counted.

    Raises:
      SourceError: the provenance of a row is not one that ``extract`` writes.
    """
    if isinstance(rows, str | os.PathLike):
        rows = (row for _, row in sources.read_rows(rows, "records") if isinstance(row, dict))
    total = explained = rationalised = 0
    counts: dict[tuple[str, ...], int] = collections.Counter()
    usages: dict[tuple[str, ...], Usage] = collections.defaultdict(Usage)
    dates: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        total += 1
        explained += bool(row.get("rationales") or row.get("rationale"))
        provenance = row.get("provenance")
        if not isinstance(provenance, Mapping):
            continue
        checked(provenance, f"row {total}")
        rationalised += bool(provenance.get("rationalised"))
        for asked in provenance.get("teachers", ()):
            settings = json.dumps(asked.get("settings", {}), sort_keys=True)
            names = (asked.get("teacher", ""), asked.get("model", ""), provenance.get("prompt", ""))
            key = (*names, provenance.get("prompt_hash", ""), settings)
            counts[key] += 1
            usages[key] += Usage(*asked.get("usage") or (0, 0))
            date = asked.get("date", "")
            first_last = dates.setdefault(key, [date, date])
            dates[key] = [min(first_last[0], date), max(first_last[1], date)]
    origins = [
        Origin(
            teacher=key[0],
            model=key[1],
            prompt=key[2],
            prompt_hash=key[3],
            settings=json.loads(key[4]),
            rows=number,
            usage=usages[key],
            first=dates[key][0],
            last=dates[key][1],
        )
        for key, number in counts.items()
    ]
    return Summary(total, explained, rationalised, tuple(sorted(origins, key=lambda origin: -origin.rows)))
