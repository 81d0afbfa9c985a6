"""``student.json`` and its vocabulary: written, read, and refused in one line where they are damaged."""

import dataclasses
import hashlib
import json

import pytest

from distill.inference import student as students
from distill.inference.student import Student
from distill.model.network import T5Config
from distill.sharding.partitioning import MeshConfig
from distill.tasks import jsonl, plain_vocabularies
from distill.tools import vocabulary as training

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TINY = T5Config(384, 16, 2, 8, 32, 1, 1)
ROWS = students.RowFormat({"input": "question", "label": "answer"}, ("no", "yes"))
STUDENT = Student(TINY, "bytes", 125, input_field="question", mesh=MeshConfig(2, 4, 1), separator="</s>", rows=ROWS)


def test_a_student_is_written_and_read():
    assert students.from_json(STUDENT.to_json()) == STUDENT
    assert STUDENT.rows.fields == {"input": "question", "label": "answer"}
    raw = json.loads(STUDENT.to_json())
    assert (raw["format"], raw["version"], raw["model"]["vocab_size"]) == ("distill-student", 1, 384)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "does not describe a student: expected an object with 'format': 'distill-student'"),
        ({"version": 2}, "is of version 2; this program reads version 1"),
        ({"vocabluary": "bytes"}, "unknown key 'vocabluary'; did you mean 'vocabulary'?"),
        ({"vocabulary": "wordpiece"}, "vocabulary must be one of"),
        ({"vocabulary_extra_ids": 10**9}, r"vocabulary_extra_ids must be in \[0, 65536\]"),
        ({"input_field": 3}, "input_field must be str; got 3"),
        ({"separator": 3}, "separator must be str or null; got 3"),
        ({"model": {**dataclasses.asdict(TINY), "vocab_size": "384"}}, "model: vocab_size must be int; got '384'"),
        ({"model": {**dataclasses.asdict(TINY), "vocab_size": 10**30}}, "model: vocab_size must be at most"),
        ({"model": {**dataclasses.asdict(TINY), "num_encoder_layers": 10**6}}, "at most 1024 layers"),
        ({"model": {**dataclasses.asdict(TINY), "scan_layers": 1}}, "scan_layers must be bool; got 1"),
        ({"model": {**dataclasses.asdict(TINY), "dropout_rate": 2}}, r"dropout_rate must be in \[0, 1\)"),
        ({"model": None}, "model: expected an object; got NoneType"),
        ({"mesh": {"data": 0}}, "MeshConfig.data must be an integer ≥ 1 or -1"),
        ({"decode": {"method": "beem"}}, "did you mean 'beam'?"),
        ({"rows": 3}, "rows must be RowFormat or null; got 3"),
        ({"rows": {"fields": {"input": 3}}}, "rows: fields must be Mapping"),
        ({"rows": {"label_names": [3]}}, "rows: label_names must be tuple"),
    ],
)
def test_a_damaged_description_is_one_line(change, message):
    raw = json.loads(STUDENT.to_json()) | change
    with pytest.raises(ValueError, match=message) as caught:
        students.from_json(json.dumps(raw), "runs/x/student.json")
    assert str(caught.value).startswith("runs/x/student.json") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 10**5, '{"format": "distill-student", "version": 1}'])
def test_what_is_no_description(text):
    with pytest.raises(ValueError, match=r"student\.json"):
        students.from_json(text)


@pytest.fixture(scope="module")
def model():
    return training.train(["some words for a small model"] * 3, 40)


@pytest.mark.parametrize("extra_ids", [0, 7])
def test_the_vocabulary_travels_with_the_student(tmp_path, model, extra_ids):
    given = dataclasses.replace(STUDENT, vocabulary="sentencepiece", vocabulary_extra_ids=extra_ids)
    students.write(tmp_path, given, model)
    student = students.read(tmp_path)
    assert student.vocabulary_sha256 == hashlib.sha256(model).hexdigest()
    vocabulary = students.read_vocabulary(tmp_path, student)
    assert vocabulary.encode("some small words") == plain_vocabularies.SentencePiece(model).encode("some small words")
    assert vocabulary.vocab_size == plain_vocabularies.SentencePiece(model).vocab_size + extra_ids
    assert not list(tmp_path.glob(".*.distill-partial"))


def test_a_damaged_vocabulary_is_one_line(tmp_path, model):
    students.write(tmp_path, dataclasses.replace(STUDENT, vocabulary="sentencepiece"), model)
    student, path = students.read(tmp_path), tmp_path / students.VOCABULARY_FILE
    path.write_bytes(model[:-7])
    with pytest.raises(ValueError, match=r"vocabulary\.model is damaged or another file: its SHA-256 is ") as caught:
        students.read_vocabulary(tmp_path, student)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"vocabulary\.model is missing"):
        students.read_vocabulary(tmp_path, student)


def test_the_format_of_rows_is_that_of_the_source():
    fields = {"input": "q", "reply": "r", "solution": "s"}
    source = jsonl.JsonLines({"train": "a"}, fields, label_names=["no", "yes"], parser="cqa", mode="strict")
    found = students.RowFormat.of(source)
    again = jsonl.JsonLines({"train": "a"}, **found.options(fields))
    assert again.row_format == source.row_format
    assert found.options(["input"]) == {
        "fields": {"input": "q"},
        "label_names": ("no", "yes"),
        "solution_marker": "####",
    }
    assert students.RowFormat.of(object()) is None
