"""Text for pretraining: text files and JSON lines, as passages of about equal size.

Example::

    distill.tasks.corpus.dataset({"train": ["books.txt.gz", "notes-*.jsonl"]}, inputs_length=512)
"""

import codecs
import dataclasses
import gzip
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from distill import validation
from distill.tasks import jsonl, sources
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record, Report, RowError, SourceError, is_blank
from distill.tasks.span_corruption import SpanCorruption

_PURPOSE = "text for pretraining"
_JSON = (".json", ".jsonl")
_BLOCK = 2**20


class Texts:
    """A source of passages: records whose input is a text, in the order of the files.

    A passage ends at the first blank line after ``passage_characters``, at a form feed, at the end of a JSON row or file,
    or at twice that length. Passages are the unit of the validation split and of ``SUBSAMPLE``.

    Args:
      files: split → a file, a pattern or a list of them; ``.json`` and ``.jsonl`` hold rows with a text field, other files
        are plain text in UTF-8. Both may be compressed by gzip.
      field: the text field of JSON rows.
      passage_characters: the characters after which a passage ends.

    Raises:
      ValueError: no files, or an argument out of its range.
    """

    def __init__(self, files: Mapping[str, jsonl.Files], *, field: str = "text", passage_characters: int = 8000):
        if not isinstance(files, Mapping) or not files:
            raise ValueError(f"FILES must map splits to files, as {{'train': 'books.txt.gz'}}; got {files!r}")
        validation.check_range("passage_characters", passage_characters, "≥ 1")
        self.splits = tuple(files)
        self._files = {split: jsonl.paths_of(file, split) for split, file in files.items()}
        self._field, self._characters = field, passage_characters

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the passages of a split.

        Raises:
          SourceError: a file cannot be read, is not UTF-8, or no file of the split has any text.
        """
        report = Report() if report is None else report
        number = 0
        paths = list(jsonl.resolved(self._files[split], _PURPOSE))
        for path in paths:
            name = path.name.removesuffix(".gz")
            for place, text in self._rows(path, report) if name.endswith(_JSON) else self._text(path):
                number += 1
                yield Record(id=str(number), input=text, provenance={"file": str(path), "line": place})
        if not number:
            names = ", ".join(map(str, paths))
            raise SourceError(f"split {split!r} has no text: {names} is empty or blank; give files with text in FILES")

    def _text(self, path: epath.Path) -> Iterator[tuple[str, str]]:
        """The passages of a text file, with the line at which each begins."""
        with sources.open_bytes(path, _PURPOSE) as file:
            yield from self._passages(_decoded(file, path))

    def _rows(self, path: epath.Path, report: Report) -> Iterator[tuple[str, str]]:
        """The passages of a file of rows, with the number of the row and of the passage's first line."""

        def record(row: dict[str, Any], number: int) -> Record:
            text = sources.text_field(row, self._field)
            if is_blank(text):
                raise RowError(f"field {self._field!r} is blank")
            return Record(id=str(number), input=text)

        rows = sources.read_rows(path, _PURPOSE)
        for line, found in sources.build(rows, record, report, str(path)):
            if found is not None:
                for place, text in self._passages(enumerate(found.input.splitlines(keepends=True), start=1)):
                    yield f"{line}:{place}", text

    def _passages(self, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[str, str]]:
        parts: list[str] = []
        size, begin = 0, 0
        for number, line in lines:
            ends = "\f" in line
            line = line.replace("\f", "")
            blank = not line.strip()
            if parts and (ends or (blank and size >= self._characters) or size + len(line) > 2 * self._characters):
                yield from _shown(begin, parts)
                parts, size = [], 0
            if blank and not parts:
                continue
            begin = begin if parts else number
            pieces = list(_pieces(line, 2 * self._characters))
            for piece in pieces[:-1]:
                yield from _shown(number, [*parts, piece])
                parts = []
            parts.append(pieces[-1])
            size = sum(map(len, parts)) if len(pieces) > 1 else size + len(line)
        yield from _shown(begin, parts)


def _shown(begin: int, parts: list[str]) -> Iterator[tuple[str, str]]:
    text = "".join(parts)
    if not is_blank(text):
        yield str(begin), text


def _pieces(line: str, characters: int) -> Iterator[str]:
    """A line in pieces of at most ``characters``, cut after a space where one is near."""
    while len(line) > characters:
        cut = line.rfind(" ", characters // 2, characters) + 1 or characters
        yield line[:cut]
        line = line[cut:]
    yield line


def _decoded(file: Any, path: epath.Path) -> Iterator[tuple[int, str]]:
    """The lines of a file, numbered from 1, with their ends; a line longer than a block in several pieces."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    number = 1
    try:
        while block := file.readline(_BLOCK):
            yield number, decoder.decode(block)
            number += block.endswith(b"\n")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}:{number}: not UTF-8 (byte 0x{error.object[error.start]:02x}); expected {_PURPOSE} in UTF-8: convert "
            "the file with iconv"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path}: the compressed file is damaged or cut off ({error})") from error


@dataclasses.dataclass(frozen=True)
class Corpus(Dataset):
    """A data set of passages without answers, whose task is ``<name>_spans``.

    Attributes:
      spans: how its text is corrupted.
    """

    spans: SpanCorruption = SpanCorruption()


def dataset(
    files: Mapping[str, jsonl.Files],
    *,
    field: str = "text",
    name: str = "text",
    feature_lengths: Mapping[str, int] | None = None,
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
    passage_characters: int = 8000,
    validation_fraction: float = 0.01,
    split_seed: int = 0,
) -> Corpus:
    """Text as a data set for span corruption; see :class:`Texts` and :class:`SpanCorruption`.

    Args:
      files, field, passage_characters: see :class:`Texts`.
      name: prefix of the task's name.
      feature_lengths: window lengths, ``{"inputs": …, "targets": …}``; None: T5's 512 and 114.
      noise_density, mean_span_length: see :class:`SpanCorruption`.
      validation_fraction: the share of the passages held out, by a hash of their text, without a validation file.
      split_seed: another seed holds out other passages.

    Raises:
      ValueError: a value is out of its range, or the targets of a window are longer than ``feature_lengths["targets"]``.
    """
    lengths = {"inputs": 512, "targets": 114} if feature_lengths is None else dict(feature_lengths)
    spans = SpanCorruption(lengths["inputs"], noise_density, mean_span_length)
    if spans.targets_length > lengths["targets"]:
        raise ValueError(
            f"windows of {lengths['inputs']} input tokens have {spans.targets_length} target tokens with noise_density="
            f"{noise_density} and mean_span_length={mean_span_length}; got feature_lengths={lengths}: set "
            f"TASK_FEATURE_LENGTHS={{'inputs': {lengths['inputs']}, 'targets': {spans.targets_length}}}"
        )
    source = Texts(files, field=field, passage_characters=passage_characters)
    return Corpus(name, source, validation_fraction=validation_fraction, split_seed=split_seed, spans=spans)
