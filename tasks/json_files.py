"""Reads JSON lines and JSON arrays, also compressed by gzip, one row at a time and in bounded memory.

This is the one reader of rows: ``train``, ``cache``, ``data``, ``extract``, ``inspect`` and ``infer`` all use
:func:`read_rows`. A row that cannot be used is yielded as a :class:`~distill.tasks.records.RowError` with its line; it
never ends the reading.
"""

import difflib
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from typing import Any

from etils import epath

from distill.tasks.records import RowError, SourceError

NOT_JSON = "not valid JSON"
"""Why a line is no row."""
MAX_ROW_BYTES = 16 * 2**20
"""A longer line, or element of an array, is rejected without being held in memory."""
MAX_ARRAY_BYTES = 256 * 2**20
"""A longer file is refused by :func:`read_array`, which holds it in memory."""
MAX_DEPTH = 64
"""A row with lists and objects nested deeper is rejected."""
MAX_DIGITS = 4300
"""A row with a longer whole number is rejected; Python's own limit."""

_BLOCK = 2**16
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_NESTING = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL
)  # whole strings, and brackets outside of them
_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\\]')


class MissingFileError(SourceError, FileNotFoundError):
    """A file that a source needs does not exist."""


def _alike(a: str, b: str) -> bool:
    """Whether names are alike without their endings, which files of other rows have, too."""
    return difflib.SequenceMatcher(None, a.partition(".")[0], b.partition(".")[0]).ratio() >= 0.6


def open_bytes(path: epath.PathLike, purpose: str) -> Any:
    """Opens a local or remote file for reading; one that is compressed by gzip is decompressed.

    Args:
      path: the file.
      purpose: the use of the file, for messages.

    Raises:
      MissingFileError: naming the path, its use, and a similar name in the same folder.
      SourceError: it is a folder.
    """
    path = epath.Path(path)
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = [name for name in difflib.get_close_matches(path.name, beside) if _alike(name, path.name)]
        hint = (
            f"; {near[0]} is there" if near else f"; {path.parent} does not exist" if not path.parent.exists() else ""
        )
        raise MissingFileError(f"{path} is missing ({purpose}){hint}")
    if path.is_dir():
        raise SourceError(f"{path} is a folder; expected a file ({purpose})")
    file: Any = path.open("rb")
    if hasattr(file, "peek"):
        magic = file.peek(2)[:2]  # also of a pipe, which cannot be read twice
    else:
        magic = file.read(2)
        file.seek(0)
    if magic != _GZIP:
        return file
    unpacked = gzip.GzipFile(fileobj=file)
    unpacked.myfileobj = file  # so that both are closed together
    return unpacked


class _Input:
    """A file read by blocks or lines, with push-back of data."""

    def __init__(self, file: Any, path: epath.PathLike):
        self._file, self._path, self._back = file, path, b""

    def put_back(self, data: bytes) -> None:
        self._back = data + self._back

    def block(self) -> bytes:
        """The next bytes; none at the end of the file."""
        if self._back:
            data, self._back = self._back, b""
            return data
        try:
            return self._file.read(_BLOCK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError(f"{self._path}: the compressed file is damaged or cut off ({error})") from error

    def whole(self, most: int) -> bytes:
        """All that is left; of more than ``most`` bytes, a part that is longer than that."""
        parts: list[bytes] = []
        size = 0
        while size <= most and (data := self.block()):
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    def skip_blank_lines(self) -> int:
        """Reads all lines up to the first that is not blank; returns how many."""
        number, unfinished = 0, b""
        while data := self.block():
            text = data.lstrip()
            begin = data.rfind(b"\n", 0, len(data) - len(text)) + 1
            number += data.count(b"\n", 0, begin)
            if text:
                self.put_back(data[begin:])
                return number
            unfinished = data[begin:][:1] or (b"" if begin else unfinished)
        self.put_back(unfinished)
        return number

    def lines(self) -> Iterator[bytes | None]:
        """All lines that are left, without their ends; None for one longer than :data:`MAX_ROW_BYTES`."""
        parts: list[bytes] = []
        size = 0
        while data := self.block():
            *complete, rest = data.split(b"\n")
            for piece in complete:
                parts.append(piece)
                size += len(piece)
                yield b"".join(parts) if size <= MAX_ROW_BYTES else None
                parts, size = [], 0
            size += len(rest)
            parts = [*parts, rest] if size <= MAX_ROW_BYTES else []
        if size:
            yield b"".join(parts) if size <= MAX_ROW_BYTES else None

    def is_array(self) -> bool:
        """Whether the rest is one array of objects, and not lines of which the first is a list."""
        taken: list[bytes] = []
        size = 0
        while size <= MAX_ROW_BYTES and (data := self.block()):
            taken.append(data)
            size += len(data)
            if b"\n" in data or not taken[0].lstrip().startswith(b"["):
                break
        head, _, remainder = b"".join(taken).partition(b"\n")
        try:
            if not head.lstrip().startswith(b"["):
                return False
            end = next((at for at, last in _Scanner().ends(head) if last), None)
            if end is None:  # it continues in the next lines
                return re.match(rb"\s*\[\s*\[", head) is None
            if head[end + 1 :].strip():
                return False
            while size <= 2 * MAX_ROW_BYTES and not remainder.strip() and (data := self.block()):
                taken.append(data)
                size += len(data)
                remainder = data
            return not remainder.strip()
        finally:
            self.put_back(b"".join(taken))


class _Scanner:
    """Finds where the elements of an array end, in data that comes in blocks."""

    def __init__(self) -> None:
        self._depth, self._in_string, self._escaped = 0, False, False

    def ends(self, data: bytes) -> Iterator[tuple[int, bool]]:
        """Positions after the array's elements: of commas, and (with True) of the closing bracket."""
        at = 0
        while at < len(data):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_INSIDE if self._in_string else _OUTSIDE).search(data, at)
            if found is None:
                return
            at = found.end()
            sign = found[0]
            if self._in_string:
                self._escaped = sign == b"\\"
                self._in_string = self._escaped
            elif sign == b'"':
                self._in_string = True
            elif sign in b"[{":
                self._depth += 1
            elif sign in b"]}":
                self._depth -= 1
                if not self._depth:
                    yield found.start(), True
                    return
            elif self._depth == 1:
                yield found.start(), False


def read_rows(
    path: epath.PathLike, purpose: str, *, keep_blank: bool = False
) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """The objects of a JSON-lines file, or of a file that holds one array of objects; either may be compressed by gzip.

    Reads block by block: neither the file nor an array is held in memory. A byte-order mark is skipped. NaN becomes
    None: pandas writes missing values as NaN. Texts are unchanged; halves of surrogate pairs, which cannot be
    encoded, are found by :func:`distill.tasks.records.check_text`.

    Args:
      path: the file, local or remote.
      purpose: the use of the file, for messages.
      keep_blank: in JSON lines, yield a RowError for each blank line instead of skipping it.

    Yields:
      ``(line, row)``; ``line`` counts from 1 (in an array: elements). Data without a usable object is yielded as a
      :class:`~distill.tasks.records.RowError` in place of the row: not UTF-8, not JSON, no object, nested deeper than
      :data:`MAX_DEPTH`, longer than :data:`MAX_ROW_BYTES`, an infinite number, or one of more than :data:`MAX_DIGITS`
      digits.

    Raises:
      MissingFileError: the file does not exist.
      SourceError: it is a folder, is UTF-16, is compressed and damaged, or holds an array that does not end (raised after
        the elements before the damage) or is followed by text.
    """
    with open_bytes(path, purpose) as file:
        source = _Input(file, path)
        start = source.block()
        while 0 < len(start) < len(_BOM) and (more := source.block()):
            start += more
        if start[:2] in _UTF16:
            raise SourceError(f"{path}: the file is UTF-16; expected UTF-8 ({purpose})")
        source.put_back(start.removeprefix(_BOM))
        blank = source.skip_blank_lines()
        if source.is_array():
            yield from _elements(source, path, purpose)
            return
        for number in range(1, blank + 1 if keep_blank else 1):
            yield number, RowError(_BLANK)
        for number, line in enumerate(source.lines(), start=blank + 1):
            if line is None:
                yield number, RowError(_TOO_LONG)
            elif line.strip():
                yield number, _with_text(parse_row(line), line)
            elif keep_blank:
                yield number, RowError(_BLANK)


_EXCERPT = 800  # bytes of a row that is no object, for reports


def _with_text(row: dict[str, Any] | RowError, line: bytes) -> dict[str, Any] | RowError:
    if isinstance(row, RowError):
        row.text = line[:_EXCERPT].decode("utf-8", "backslashreplace").strip()
    return row


_BLANK = "an empty line; expected a JSON object"
_TOO_LONG = f"longer than {MAX_ROW_BYTES // 2**20} MiB"


def _elements(source: _Input, path: epath.PathLike, purpose: str) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    scanner = _Scanner()
    parts: list[bytes] = []
    number = size = 0
    opened = False
    while data := source.block():
        begin = 0
        if not opened:
            begin = len(data) - len(data.lstrip()) + 1
            opened = True
        for at, last in scanner.ends(data):
            parts.append(data[begin:at])
            size += at - begin
            element = b"".join(parts)
            if not last or number or element.strip():
                number += 1
                yield number, _with_text(parse_row(element), element) if size <= MAX_ROW_BYTES else RowError(_TOO_LONG)
            parts, size, begin = [], 0, at + 1
            if last:
                if data[at : at + 1] != b"]" or data[begin:].strip() or any(map(bytes.strip, iter(source.block, b""))):
                    raise SourceError(f"{path}: not one JSON array: more text follows its element {number} ({purpose})")
                return
        size += len(data) - begin
        parts = [*parts, data[begin:]] if size <= MAX_ROW_BYTES else []
    raise SourceError(
        f"{path}: not valid JSON: the file ends too early, within the array's element {number + 1} ({purpose})"
    )


def _constant(name: str) -> None:
    if name != "NaN":
        raise RowError("an infinite number")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise RowError("an infinite number")
    return value


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise RowError(f"a number of more than {MAX_DIGITS:,} digits")
    return int(digits)


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float, parse_int=_int)


def _is_deep(data: bytes) -> bool:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for found in _NESTING.finditer(data):
        if found[0] in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif found[0] in (b"]", b"}"):
            depth -= 1
    return False


def parse_value(data: bytes) -> Any:
    """The JSON value in ``data``, with the limits of :func:`read_rows`.

    Raises:
      RowError: the data are not a JSON object.
    """
    if _is_deep(data):
        raise RowError(f"nested more than {MAX_DEPTH} deep")
    try:
        return _DECODER.decode(data.decode("utf-8-sig"))
    except RowError:
        raise
    except UnicodeDecodeError as error:
        raise RowError("not UTF-8") from error
    except ValueError as error:
        raise RowError(NOT_JSON) from error


def parse_row(data: bytes) -> dict[str, Any] | RowError:
    """The JSON object in ``data``, or a RowError; see :func:`read_rows`."""
    try:
        row = parse_value(data)
    except RowError as error:
        return error
    return row if isinstance(row, dict) else RowError(f"expected an object; got {type(row).__name__}")


def read_array(path: epath.PathLike, purpose: str) -> list[Any]:
    """The elements of a file that holds one JSON array, of any values.

    Raises:
      SourceError: it is missing, not UTF-8, truncated, not an array, or longer than :data:`MAX_ARRAY_BYTES`; the message
        gives the place.
    """
    with open_bytes(path, purpose) as file:
        data = _Input(file, path).whole(MAX_ARRAY_BYTES)
    if len(data) > MAX_ARRAY_BYTES:
        raise SourceError(
            f"{path}: longer than {MAX_ARRAY_BYTES // 2**20} MiB when it is decompressed ({purpose}); write the rows as "
            "JSON lines"
        )
    if _is_deep(data):
        raise SourceError(f"{path}: nested more than {MAX_DEPTH} deep ({purpose})")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})") from error
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = "the file ends too early" if error.pos >= len(text.rstrip()) - 1 else error.msg
        raise SourceError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {where} ({purpose})") from error
    except RowError as error:
        raise SourceError(f"{path}: {error} ({purpose})") from error
    if not isinstance(value, list):
        raise SourceError(f"{path}: expected a JSON array ({purpose}); got {type(value).__name__}")
    return value
