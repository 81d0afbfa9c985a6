import gzip
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.tasks import json_files, sources
from distill.tasks.json_files import MAX_DEPTH, MAX_ROW_BYTES, read_rows
from distill.tasks.records import RowError, SourceError

ROWS = [{"q": f"q{n}", "n": n} for n in range(4)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def read(path, data, **options):
    path.write_bytes(data)
    return [(n, str(row) if isinstance(row, RowError) else row) for n, row in read_rows(path, "test", **options)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    "data",
    [
        LINES,
        b"\xef\xbb\xbf" + LINES,
        LINES.replace(b"\n", b"\r\n"),
        LINES.rstrip(),
        gzip.compress(LINES, mtime=0),
        gzip.compress(b"\xef\xbb\xbf" + LINES, mtime=0),
        json.dumps(ROWS).encode(),
        b"\n \n" + json.dumps(ROWS, indent=2).encode() + b"\n\n",
        b"\xef\xbb\xbf\n" + json.dumps(ROWS, indent=1).encode(),
        gzip.compress(json.dumps(ROWS).encode(), mtime=0),
    ],
    ids=[
        "lines",
        "BOM",
        "CRLF",
        "no last break",
        "gzip",
        "gzip of BOM",
        "array",
        "indented array",
        "BOM and array",
        "gzip of array",
    ],
)
def test_all_shapes_of_a_file_give_the_same_rows(path, data):
    assert read(path, data) == list(enumerate(ROWS, start=1))


def test_every_line_keeps_its_number(path):
    assert read(path, b'\n{"q": 1}\n\n  \n{"q": 2}\n') == [(2, {"q": 1}), (5, {"q": 2})]
    blank = "an empty line; expected a JSON object"
    assert read(path, b'\n{"q": 1}\n \n{"q": 2}\n  ', keep_blank=True) == [
        (1, blank),
        (2, {"q": 1}),
        (3, blank),
        (4, {"q": 2}),
        (5, blank),
    ]
    assert read(path, b"") == read(path, b"\n\n") == read(path, b"[]") == read(path, b" [ \n ] ") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{broken", "not valid JSON"),
        (b'{"q": "\xff"}', "not UTF-8"),
        (b"[1, 2]", "expected an object; got list"),
        (b"3", "expected an object; got int"),
        (b'{"q": Infinity}', "an infinite number"),
        (b'{"q": -1e999}', "an infinite number"),
        (b'{"q": ' + b"9" * 5000 + b"}", "a number of more than 4,300 digits"),
        (b'{"q": ' + b"[" * 3000 + b"]" * 3000 + b"}", "nested more than 64 deep"),
        (b'{"q": ' + b'{"a":' * 100_000, "nested more than 64 deep"),
        (b"[" * 100_000, "nested more than 64 deep"),
        (b'{"q": "\n', "not valid JSON"),
        (b'{"q": "\x00"}', "not valid JSON"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_line_that_cannot_be_used_does_not_end_the_reading(path, line, reason, first):
    got = read(path, line + b"\n" + LINES if first else LINES + line)
    numbers = [0] if first else [-1]
    assert got[numbers[0]][1] == reason
    assert [row for _, row in got if isinstance(row, dict)] == ROWS
    got = read(path, json.dumps(ROWS).encode()[:-1] + b", null, {" + b'"q"' + b"}]")
    assert got == [*enumerate(ROWS, start=1), (5, "expected an object; got NoneType"), (6, "not valid JSON")]


def test_brackets_in_texts_are_not_nesting(path):
    row = {"q": '[{"' * 200, "r": '\\"' * 100 + "]}" * 200}
    assert read(path, json.dumps(row).encode()) == [(1, row)]
    assert read(path, json.dumps([row, row]).encode()) == [(1, row), (2, row)]
    deepest = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    assert isinstance(read(path, b'{"q": ' + deepest + b"}")[0][1], dict)


def test_nan_is_a_missing_value(path):
    assert read(path, b'{"a": NaN, "b": [NaN, 1.5]}') == [(1, {"a": None, "b": [None, 1.5]})]


@pytest.mark.parametrize("array", [False, True])
def test_a_line_of_50_mb_is_counted_and_not_held(path, array):
    long = b'{"q": "' + b"x" * 50_000_000 + b'"}'
    rows = [json.dumps(row).encode() for row in ROWS]
    rows.insert(2, long)
    path.write_bytes(b"[" + b",\n".join(rows) + b"]" if array else b"\n".join(rows))
    del long, rows
    tracemalloc.start()
    got = list(read_rows(path, "test"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line for line, _ in got] == [1, 2, 3, 4, 5]
    assert str(got[2][1]) == "longer than 16 MiB"
    assert [row for _, row in got if isinstance(row, dict)] == ROWS
    assert peak < 2.5 * MAX_ROW_BYTES


def test_blank_space_after_an_array_is_not_held(path):
    path.write_bytes(gzip.compress(b"[{}]\n" + b" \n" * 2**26, 1))
    tracemalloc.start()
    assert list(read_rows(path, "test")) == [(1, {})]
    assert tracemalloc.get_traced_memory()[1] < 6 * MAX_ROW_BYTES
    tracemalloc.stop()


def test_an_array_that_is_held_in_memory_has_a_limit(path, monkeypatch):
    path.write_bytes(gzip.compress(b"[1, 2" + b" " * 2**24 + b"]", 1))
    assert json_files.read_array(path, "test") == [1, 2]
    monkeypatch.setattr(json_files, "MAX_ARRAY_BYTES", 2**20)
    tracemalloc.start()
    with pytest.raises(
        SourceError, match=r"longer than 1 MiB when it is decompressed \(test\); write the rows as JSON"
    ):
        json_files.read_array(path, "test")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_reading_is_lazy(path):
    path.write_bytes(b"[" + LINES.replace(b"\n", b",\n") * 8_000 + b"{}]")
    tracemalloc.start()
    assert sum(1 for _ in read_rows(path, "test")) == 32_001
    assert tracemalloc.get_traced_memory()[1] < 2**19
    tracemalloc.stop()


def test_files_that_cannot_be_used_are_one_error(tmp_path, path):
    with pytest.raises(SourceError, match=r"is a folder; expected a file \(test\)"):
        list(read_rows(tmp_path, "test"))
    with pytest.raises(FileNotFoundError, match=r"rows\.json is missing \(test\)$"):
        list(read_rows(tmp_path / "rows.json", "test"))
    with pytest.raises(SourceError, match="the file is UTF-16; expected UTF-8"):
        read(path, '{"q": 1}'.encode("utf-16"))
    with pytest.raises(SourceError, match="the compressed file is damaged or cut off"):
        read(path, gzip.compress(LINES * 1000, mtime=0)[:-20])
    with pytest.raises(SourceError, match="the file ends too early, within the array's element 4"):
        read(path, json.dumps(ROWS).encode()[:-5])
    with pytest.raises(SourceError, match="more text follows its element 4"):
        read(path, json.dumps(ROWS, indent=1).encode() + b"\n" + LINES)


def test_rows_before_the_damage_are_yielded(path):
    path.write_bytes(json.dumps(ROWS).encode()[:-5])
    rows = read_rows(path, "test")
    assert [next(rows) for _ in range(3)] == list(enumerate(ROWS[:3], start=1))
    with pytest.raises(SourceError):
        next(rows)


def test_arrays_of_replies_have_the_same_limits(path):
    for data, reason in [(b"[" * 1000, "nested more than 64"), (b"[1e999]", "infinite"), (b"[1", "ends too early")]:
        path.write_bytes(data)
        with pytest.raises(SourceError, match=reason):
            sources.read_array(path, "replies")
    path.write_bytes(gzip.compress(b'["a", NaN]', mtime=0))
    assert sources.read_array(path, "replies") == ["a", None]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
pieces = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b"\n",
        b" ",
        b"NaN",
        b"1e999",
        b"null",
        b'{"q": 1}',
        b"\xff",
        b"\xef\xbb\xbf",
    ]
)


@settings(max_examples=400)
@given(st.binary(max_size=200) | st.lists(pieces, max_size=30).map(b"".join), st.sampled_from([1, 7, 2**16]))
def test_any_bytes_are_accounted_for_or_refused(tmp_path_factory, data, block):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_BLOCK", block)
        try:
            got = list(read_rows(path, "test", keep_blank=True))
        except SourceError:
            return
    assert all(isinstance(row, dict | RowError) for _, row in got)
    numbers = [number for number, _ in got]
    assert numbers == list(range(1, len(numbers) + 1))
    text = data.removeprefix(b"\xef\xbb\xbf")
    lines = text.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if not text.lstrip().startswith(b"["):
        assert len(numbers) == len(lines)


@settings(max_examples=200)
@given(
    st.lists(json_values, max_size=6),
    st.sampled_from(["lines", "array", "indented"]),
    st.booleans(),
    st.sampled_from([1, 5, 64, 2**16]),
)
def test_values_come_back_as_they_were_written(tmp_path_factory, values, shape, compress, block):
    path = tmp_path_factory.getbasetemp() / "values.json"
    rows = [{"v": value} for value in values]
    if shape == "lines":
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        data = json.dumps(rows, indent=1 if shape == "indented" else None).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if compress else data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_BLOCK", block)
        got = [row for _, row in read_rows(path, "test")]
    assert len(got) == len(rows)
    for row, wanted in zip(got, rows):
        text = json.dumps(wanted)
        if "Infinity" in text:
            assert str(row) == "an infinite number" or '"' in text
        elif "NaN" not in text:
            assert row == wanted
