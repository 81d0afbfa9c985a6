"""JSON lines with any field names: one object per row, with a mapping from a record's fields to those of the rows.

Example::

    distill.tasks.jsonl.dataset(
        name="faq",
        files={"train": "faq.jsonl", "test": "faq_test.jsonl"},
        fields={"input": "question", "rationale": "why", "label": "answer"},
    )
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from distill import validation
from distill.tasks import metrics, parsers, row_fields, sources
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record, Report, RowError, SourceError, is_blank, shown
from distill.tasks.row_fields import identity_of, text_of

__all__ = ["FIELDS", "Files", "JsonLines", "dataset", "identity_of", "paths_of", "resolved", "text_of"]

FIELDS_REMEDY = "FIELDS maps the fields of a record to those of the rows"
FIELDS = (
    "id",
    "input",
    "label",
    "llm_label",
    "rationale",
    "rationales",
    "reply",
    "solution",
    "choices",
    "weight",
    "rationale_teachers",
    "label_votes",
    "label_log_probs",
    "key_phrases",
)
"""The fields of a record. ``rationale`` and ``rationales`` are one text or several; ``reply`` is a teacher's raw reply;
``solution`` is a rationale and the gold label in one text. ``rationales`` may also be an object of one text or several
per teacher. ``label_votes`` and ``label_log_probs`` are objects of numbers by label."""

Files = epath.PathLike | Sequence[epath.PathLike]

_PATTERN = re.compile(r"[*?\[]")


def first_fields(file: epath.Path, purpose: str) -> list[str]:
    """The names of the fields of a file's first row that can be read, in alphabetical order; empty without one."""
    return sorted(next((row for _, row in sources.read_rows(file, purpose) if isinstance(row, dict)), {}))


def paths_of(files: Files, split: str) -> tuple[epath.Path, ...]:
    """The files of a split, patterns not yet resolved."""
    given = [files] if isinstance(files, str | os.PathLike) else files
    if not isinstance(given, Sequence) or not all(isinstance(file, str | os.PathLike) for file in given) or not given:
        raise ValueError(
            f"FILES[{split!r}] must be a path, a pattern such as 'rows-*.jsonl', or a list of them; got {files!r}"
        )
    return tuple(epath.Path(os.path.expanduser(file)) for file in given)


def resolved(paths: Sequence[epath.Path], purpose: str) -> Iterator[epath.Path]:
    """The files that paths and patterns name; those of a pattern in alphabetical order."""
    for path in paths:
        if not _PATTERN.search(path.name) or path.exists():
            yield path
            continue
        found = sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
        if not found:
            raise sources.MissingFileError(f"no file matches {path} ({purpose})")
        yield from found


def check_exist(files: Files, split: str) -> None:
    """Reads the first row of every local file of a split.

    Raises:
      MissingFileError: a FileNotFoundError: there is no such file.
      SourceError: it has no rows, or cannot be read.
    """
    purpose = f"rows of split {split}"
    for path in resolved(paths_of(files, split), purpose):
        if "://" not in str(path) and next(iter(sources.read_rows(path, purpose)), None) is None:
            raise SourceError(f"{path}: it has no rows ({purpose})")


class JsonLines:
    """A source over JSON-lines files (or files that hold one array of objects).

    Args:
      files: split → a file, a pattern (``"rows-*.jsonl"``), or a list of them, read one after another.
      fields: field of a record (:data:`FIELDS`) → field of the rows. ``question.stem`` is a field of an object in
        a field, and ``choices.text`` that of every object in a list. A name with ``{placeholders}`` is a template:
        ``"{premise}</s>{hypothesis}"``, ``"{question.stem}\\n{question.choices}"`` (lists are lettered, one item per
        line). A field without a mapping is read from the row field of the same name, if present. ``choices`` may also be as
        CommonsenseQA and ARC publish them; see :func:`distill.tasks.row_fields.choices_of`. A label that is the letter
        or number of a choice is replaced by the choice's text.
      label_names: the labels' texts where rows hold class numbers.
      parser: with ``reply``, how to read it: one of ``tasks.parsers.NAMES``.
      mode: with ``reply``, ``improved`` or ``strict``.
      solution_marker: with ``solution``, the text between rationale and label, such as "####" in GSM8K.

    Raises:
      ValueError: a key of ``fields`` that is not in :data:`FIELDS`, no files, an unknown parser, or an argument of the
        wrong type.
    """

    def __init__(
        self,
        files: Mapping[str, Files],
        fields: Mapping[str, str] | None = None,
        *,
        label_names: Sequence[str] = (),
        parser: str | None = None,
        mode: parsers.Mode = "improved",
        solution_marker: str = "####",
    ):
        if files is not None and not isinstance(files, Mapping):
            example = {"train": files if isinstance(files, str | list | tuple) and files else "rows.jsonl"}
            raise ValueError(f"FILES must map splits to files, as {example}; got {files!r}")
        if not files:
            raise ValueError("no files were given; expected a mapping like {'train': 'rows.jsonl'}")
        if fields is not None and not isinstance(fields, Mapping):
            example = {"input": "question", "label": "answer"}
            raise ValueError(f"FIELDS must map a record's fields to those of the rows, as {example}; got {fields!r}")
        for key, name in (fields or {}).items():
            if key not in FIELDS:
                swapped = f"; the record's field comes first, as {{{name!r}: {key!r}}}" if name in FIELDS else ""
                hint = swapped or validation.did_you_mean(key, FIELDS)
                raise ValueError(f"FIELDS: a record has no field {key!r}{hint} (fields: {', '.join(FIELDS)})")
            if not isinstance(name, str) or not name:
                raise ValueError(f"FIELDS[{key!r}] must be the name of a field or a template; got {name!r}")
        if not isinstance(solution_marker, str) or not solution_marker:
            raise ValueError(f"solution_marker must be a text as '####'; got {solution_marker!r}")
        if fields and "reply" in fields and parser is None:
            raise ValueError(f"'reply' needs a parser to read it: one of {', '.join(parsers.NAMES)}")
        if parser is not None:
            parsers.parse(parser, "", mode=mode)
        self.splits = tuple(files)
        self._files = {split: paths_of(file, split) for split, file in files.items()}
        self._fields = dict(fields or {})
        self._label_names = tuple(label_names)
        self._parser, self._mode = parser, mode
        # None where it is not used, so that caches of data sets without solutions stay valid.
        self._solution_marker = solution_marker if "solution" in self._fields else None

    @property
    def input_field(self) -> str:
        """The field that holds the input, or a template of fields."""
        return self._fields.get("input", "input")

    @property
    def row_format(self) -> dict[str, Any]:
        """The arguments with which another source reads other rows in the same way; JSON-ready."""
        return {
            "fields": dict(self._fields),
            "label_names": self._label_names,
            "parser": self._parser,
            "mode": self._mode,
            "solution_marker": self._solution_marker,
        }

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the split's records.

        Raises:
          SourceError: the file cannot be used, or no row at all has a field that ``fields`` names.
        """
        if split not in self._files:
            raise ValueError(f"no file for split {split!r}; the splits with files are {', '.join(self._files)}")
        report = Report() if report is None else report
        purpose = f"rows of split {split}"
        first = 0
        for file in resolved(self._files[split], purpose):
            for number, record in self._read(file, split, purpose, first, report):
                first = number + 1
                if record is not None:
                    report.rows += 1
                    yield record

    def _read(
        self, file: epath.Path, split: str, purpose: str, first: int, report: Report
    ) -> Iterator[tuple[int, Record | None]]:
        """The records of one file with their numbers; None for a rejected row."""
        seen: set[str] = set()  # fields, to be named if one of those that are wanted is in no row
        wanted = {each for name in (self.input_field, *self._fields.values()) for each in row_fields.fields_in(name)}
        found: set[str] = set()  # those that some row has
        problems: list[tuple[str, str, str]] = []

        def to_record(row: dict[str, Any], number: int) -> Record:
            if len(found) < len(wanted):
                row_fields.note_names(row, seen)
                found.update(each for each in wanted - found if row_fields.has(row, each))
            problems.clear()
            return self._record(row, f"{split}-{first + number}", problems)

        rows = sources.build(sources.read_rows(file, purpose), to_record, report, str(file))
        try:
            for number, (line, record) in enumerate(rows, start=first):
                if record is not None:
                    for kind, reason, text in problems:
                        report.add(kind, reason, file=file, line=line, id=record.id, text=text)
                    provenance = {"file": str(file), "line": line, **record.provenance}
                    record = dataclasses.replace(record, provenance=provenance)
                yield number, record
        except sources.MissingFileError:
            raise
        except SourceError:
            self._check_fields(seen, found, file)
            if seen and "input" not in self._fields and "input" not in found:
                raise SourceError(
                    f"{file}: no row has the field 'input'; {FIELDS_REMEDY} (the rows have: {', '.join(sorted(seen))})"
                ) from None
            raise
        self._check_fields(seen, found, file)

    def _check_fields(self, seen: set[str], found: set[str], file: epath.Path) -> None:
        for key, name in self._fields.items():
            for wanted in row_fields.fields_in(name):
                if seen and wanted not in found:
                    known = sorted(seen)
                    hint = validation.did_you_mean(wanted, known)
                    raise SourceError(
                        f"{file}: no row has the field {wanted!r} that {key!r} is mapped to{hint} "
                        f"(the rows have: {', '.join(known)})"
                    )

    def _name(self, key: str) -> str:
        """The field of the rows that a field of a record is read from."""
        return self._fields.get(key, key)

    def _get(self, row: dict[str, Any], key: str) -> Any:
        return row_fields.value_of(row, self._name(key))

    def _label(self, row: dict[str, Any], key: str) -> str | None:
        value = self._get(row, key)
        if value is None:
            return None
        if self._label_names:
            return sources.class_name(value, self._label_names)
        return row_fields.text(value, self._name(key))

    def _record(self, row: dict[str, Any], fallback_id: str, problems: list[tuple[str, str, str]]) -> Record:
        given = self._get(row, "input")
        if given is None:
            name = self._name("input")
            raise RowError(
                f"the row has no input: field {name!r} is {'null' if row_fields.has(row, name) else 'absent'}"
            )
        weight = self._get(row, "weight")
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float)):
            raise RowError(f"{self._name('weight')} is not a number but {type(weight).__name__}")
        rationales = row_fields.texts(self._get(row, "rationale"), self._name("rationale"))
        several, teachers = row_fields.rationales_of(
            self._get(row, "rationales"),
            self._get(row, "rationale_teachers"),
            row.get("provenance"),
            (self._name("rationales"), self._name("rationale_teachers")),
        )
        rationales += several
        choices, letters = row_fields.choices_of(self._get(row, "choices"), self._name("choices"))
        llm_label = self._label(row, "llm_label")
        label = self._label(row, "label")
        solution = self._get(row, "solution") if self._solution_marker else None
        if solution is not None:
            marker = self._solution_marker or ""
            why, label = row_fields.solution_of(row_fields.text(solution, self._name("solution")), marker)
            rationales += (why,)
        label = None if label is None or is_blank(label) else row_fields.choice_text(label, choices, letters)
        llm_label = None if llm_label is None else row_fields.choice_text(llm_label, choices, letters)
        if choices and label is not None and metrics.match_choice(label, choices) is None:
            raise RowError(f"unknown label: {shown(label)} is not among the choices")
        provenance: dict[str, Any] = {}
        reply = self._get(row, "reply") if self._parser else None
        if reply is not None:
            provenance["reply"] = row_fields.text(reply, self._name("reply"))
            provenance["parser"] = self._parser
            parsed = parsers.parse(self._parser or "", provenance["reply"], choices, mode=self._mode)
            if problem := parsed.problem(provenance["reply"]):
                problems.append(problem)
            llm_label = llm_label or parsed.llm_label
            rationales += parsed.rationales
        if len(teachers) != len(rationales) and "rationale_teachers" not in self._fields:
            teachers = ()
        identity = identity_of(row, self._name("id"))
        votes, name = self._votes(row)
        values: dict[str, Any] = {
            "id": fallback_id if identity is None else row_fields.text(identity, self._name("id")),
            "input": row_fields.text(given, self._name("input")),
            "label": label,
            "llm_label": llm_label,
            "rationales": rationales,
            "choices": choices,
            "weight": 1.0 if weight is None else weight,
            "rationale_teachers": teachers,
            "label_votes": tuple((row_fields.choice_text(text, choices, letters), number) for text, number in votes),
            "key_phrases": row_fields.texts(self._get(row, "key_phrases"), self._name("key_phrases")),
            "provenance": provenance,
        }
        try:
            return Record(**values)
        except RowError as error:  # begins with the record's field
            key, _, rest = str(error).partition(" ")
            raise RowError(f"{name if key == 'label_votes' else self._name(key)} {rest}") from None

    def _votes(self, row: dict[str, Any]) -> tuple[list[tuple[str, float]], str]:
        """The teacher's votes, or the probabilities of its log-probabilities, by label; and the name of their field."""
        for key in ("label_votes", "label_log_probs"):
            value = self._get(row, key)
            if value is not None:
                name = self._name(key)
                return row_fields.votes_of(value, name, logarithms=key == "label_log_probs"), name
        return [], "label_votes"


def dataset(
    files: Mapping[str, Files],
    *,
    name: str = "jsonl",
    fields: Mapping[str, str] | None = None,
    answer: metrics.AnswerKind = "text",
    labels: Sequence[str] = (),
    label_names: Sequence[str] = (),
    parser: str | None = None,
    mode: parsers.Mode = "improved",
    solution_marker: str = "####",
    separator: str | None = None,
    several_rationales: bool = True,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """A data set over JSON lines; see :class:`JsonLines` and :class:`distill.tasks.dataset.Dataset` for the arguments."""
    source = JsonLines(
        files, fields, label_names=label_names, parser=parser, mode=mode, solution_marker=solution_marker
    )
    return Dataset(
        name,
        source,
        answer=answer,
        labels=tuple(labels),
        separator=separator,
        several_rationales=several_rationales,
        validation_fraction=validation_fraction,
        split_seed=split_seed,
    )
