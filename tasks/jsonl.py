"""Anyone's JSON lines: one object a row, with a mapping from what a record needs to what the rows call it.

tasks.jsonl.dataset(
    name="faq",
    files={"train": "faq.jsonl", "test": "faq_test.jsonl"},
    fields={"input": "question", "rationale": "why", "label": "answer"},
)
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from tasks import metrics, parsers, sources
from tasks.dataset import Dataset
from tasks.records import REPLY, UNDECIDED, Record, Report, RowError, SourceError

FIELDS = ("id", "input", "label", "llm_label", "rationale", "rationales", "reply", "choices", "weight")
"""What a row may hold. ``rationale`` and ``rationales`` are one text or several; ``reply`` is a teacher's raw reply."""

_HOLE = re.compile(r"\{(\w+)\}")


def _show(value: Any, name: str) -> str:
    if isinstance(value, list):
        return "\n".join(f"({chr(ord('a') + number)}) {_show(item, name)}" for number, item in enumerate(value))
    return _text(value, f"field {name!r}")


def _filled(template: str, row: Mapping[str, Any]) -> str:
    return _HOLE.sub(lambda hole: _show(row[hole[1]], hole[1]), template)


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    raise RowError(f"{name} is not text but {type(value).__name__}")


def text_of(row: Mapping[str, Any], name: str) -> str:
    """The text in a field of a row, or what a template makes of its fields.

    Args:
      row: an object of JSON.
      name: of the field, or a template: see :class:`JsonLines`.

    Raises:
      RowError: a field that is absent, empty, or neither text nor number (in a template: nor a list of them).
    """
    for wanted in _HOLE.findall(name) or [name]:
        value = row.get(wanted)
        values = value if isinstance(value, list) else [value]
        if all(each is None or (isinstance(each, str) and not each.strip()) for each in values):
            raise RowError(f"no text in field {wanted!r}; the row has {sorted(row)}")
    return _filled(name, row) if _HOLE.search(name) else _text(row[name], f"field {name!r}")


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    return tuple(_text(item, name) for item in values)


class JsonLines:
    """A source over JSON-lines files (or files that hold one array of objects).

    Args:
      files: split → file.
      fields: what a record needs (:data:`FIELDS`) → the field that holds it. A name with ``{holes}`` is a template:
        ``"{premise}</s>{hypothesis}"``, ``"{question}\\n{choices}"`` (lists are lettered, one item a line). What is not
        named is read from the field of the same name, if there is one.
      label_names: the labels' texts where rows hold class numbers.
      parser: with ``reply``, how to read it: one of ``tasks.parsers.NAMES``.
      mode: with ``reply``, ``improved`` or ``strict``.

    Raises:
      ValueError: a key of ``fields`` that is not in :data:`FIELDS`, no files, or an unknown parser.
    """

    def __init__(
        self,
        files: Mapping[str, epath.PathLike],
        fields: Mapping[str, str] | None = None,
        *,
        label_names: Sequence[str] = (),
        parser: str | None = None,
        mode: parsers.Mode = "improved",
    ):
        if not files:
            raise ValueError("no files were given; expected a mapping like {'train': 'rows.jsonl'}")
        for key in fields or {}:
            if key not in FIELDS:
                near = difflib.get_close_matches(key, FIELDS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"a record has no {key!r}{hint} (there are: {', '.join(FIELDS)})")
        if fields and "reply" in fields and parser is None:
            raise ValueError(f"'reply' needs a parser to read it: one of {', '.join(parsers.NAMES)}")
        if parser is not None:
            parsers.parse(parser, "", mode=mode)
        self.splits = tuple(files)
        self._files = {split: epath.Path(file) for split, file in files.items()}
        self._fields = dict(fields or {})
        self._label_names = tuple(label_names)
        self._parser, self._mode = parser, mode

    @property
    def input_field(self) -> str:
        """The field that holds the input, or a template of fields."""
        return self._fields.get("input", "input")

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the split's records.

        Raises:
          SourceError: the file cannot be used, or no row at all has a field that ``fields`` names.
        """
        if split not in self._files:
            raise ValueError(f"there is no file for split {split!r}; there is one for {', '.join(self._files)}")
        report = Report() if report is None else report
        file = self._files[split]
        seen: set[str] = set()
        problems: list[tuple[str, str, str]] = []

        def to_record(row: dict[str, Any], number: int) -> Record:
            seen.update(row)
            problems.clear()
            return self._record(row, f"{split}-{number}", problems)

        rows = sources.build(sources.read_rows(file, f"rows of split {split}"), to_record, report, str(file))
        try:
            for line, record in rows:
                if record is None:
                    continue
                for kind, reason, text in problems:
                    report.add(kind, reason, file=file, line=line, id=record.id, text=text)
                report.rows += 1
                provenance = {"file": str(file), "line": line, **record.provenance}
                yield dataclasses.replace(record, provenance=provenance)
        except sources.MissingFileError:
            raise
        except SourceError:
            self._check_fields(seen, file)
            raise
        self._check_fields(seen, file)

    def _check_fields(self, seen: set[str], file: epath.Path) -> None:
        for key, name in self._fields.items():
            for wanted in _HOLE.findall(name) or [name]:
                if seen and wanted not in seen:
                    near = difflib.get_close_matches(wanted, seen, n=1)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise SourceError(
                        f"{file}: no row has the field {wanted!r} that {key!r} is mapped to{hint} "
                        f"(the rows have: {', '.join(sorted(seen))})"
                    )

    def _get(self, row: dict[str, Any], key: str) -> Any:
        name = self._fields.get(key, key)
        if not _HOLE.search(name):
            return row.get(name)
        missing = [hole for hole in _HOLE.findall(name) if row.get(hole) is None]
        if missing:
            raise RowError(f"field {missing[0]!r} is absent")
        return _filled(name, row)

    def _label(self, row: dict[str, Any], key: str) -> str | None:
        value = self._get(row, key)
        if value is None:
            return None
        if self._label_names:
            return sources.class_name(value, self._label_names)
        return _text(value, key) or None

    def _record(self, row: dict[str, Any], fallback_id: str, problems: list[tuple[str, str, str]]) -> Record:
        given = self._get(row, "input")
        if given is None:
            raise RowError(f"the row has no input: field {self._fields.get('input', 'input')!r} is absent")
        weight = self._get(row, "weight")
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float)):
            raise RowError(f"weight is not a number but {type(weight).__name__}")
        identity = self._get(row, "id")
        rationales = _texts(self._get(row, "rationale"), "rationale") + _texts(
            self._get(row, "rationales"), "rationales"
        )
        choices = _texts(self._get(row, "choices"), "choices")
        llm_label = self._label(row, "llm_label")
        label = self._label(row, "label")
        if choices and label is not None and metrics.match_choice(label, choices) is None:
            raise RowError(f"unknown label: {label!r} is not among the choices")
        provenance: dict[str, Any] = {}
        reply = self._get(row, "reply") if self._parser else None
        if reply is not None:
            provenance["reply"] = _text(reply, "reply")
            provenance["parser"] = self._parser
            parsed = parsers.parse(self._parser or "", provenance["reply"], choices, mode=self._mode)
            if parsed.failed:
                problems.append((REPLY, parsed.failed, provenance["reply"]))
            elif parsed.undecided:
                answer = provenance["reply"].partition(parsed.rationale)[2].strip()
                problems.append((UNDECIDED, parsed.undecided, answer))
            llm_label = llm_label or parsed.llm_label
            rationales += parsed.rationales
        return Record(
            id=_text(identity, "id") if identity is not None else fallback_id,
            input=_text(given, "input"),
            label=label,
            llm_label=llm_label,
            rationales=tuple(text for text in rationales if text.strip()),
            choices=choices,
            weight=1.0 if weight is None else float(weight),
            provenance=provenance,
        )


def dataset(
    files: Mapping[str, epath.PathLike],
    *,
    name: str = "jsonl",
    fields: Mapping[str, str] | None = None,
    answer: metrics.AnswerKind = "text",
    labels: Sequence[str] = (),
    label_names: Sequence[str] = (),
    parser: str | None = None,
    mode: parsers.Mode = "improved",
    separator: str | None = None,
    several_rationales: bool = True,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """A data set over JSON lines; see :class:`JsonLines` and :class:`tasks.dataset.Dataset` for the arguments."""
    source = JsonLines(files, fields, label_names=label_names, parser=parser, mode=mode)
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
