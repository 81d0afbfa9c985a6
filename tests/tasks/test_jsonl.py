import json

import pytest

from tasks import jsonl
from tasks.records import Report, SourceError

FIELDS = {"input": "question", "rationale": "why", "label": "answer"}
ROWS = [{"question": f"q{n}?", "why": f"because {n}", "answer": f"a{n}"} for n in range(4)]


def _read(path, **settings):
    report = Report()
    dataset = jsonl.dataset({"train": path}, validation_fraction=0.0, **settings)
    return list(dataset.records("train", report)), report


def test_a_mapping_is_all_it_takes(tmp_path, write):
    rows, report = _read(write.lines(tmp_path / "rows.jsonl", ROWS), fields=FIELDS)
    assert [(row.input, row.rationales, row.label) for row in rows] == [
        (f"q{n}?", (f"because {n}",), f"a{n}") for n in range(4)
    ]
    assert rows[2].id == "train-2"
    assert rows[2].provenance["line"] == 3
    assert not report.problems


def test_an_array_and_a_byte_order_mark_are_read_too(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8-sig")
    assert len(_read(path, fields=FIELDS)[0]) == 4
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n", encoding="utf-8-sig")
    assert len(_read(path, fields=FIELDS)[0]) == 4


def test_the_records_own_names_need_no_mapping(tmp_path, write):
    row = {
        "id": 7,
        "input": "q",
        "label": 3,
        "llm_label": True,
        "rationales": ["one", " ", "two"],
        "choices": ["3", "4"],
        "weight": 2,
        "other": None,
    }
    (record,), _ = _read(write.lines(tmp_path / "rows.jsonl", [row]))
    assert record.id == "7"
    assert (record.label, record.llm_label, record.weight) == ("3", "true", 2.0)
    assert record.rationales == ("one", "two")
    assert record.choices == ("3", "4")


def test_templates_join_fields(tmp_path, write):
    row = {"premise": "A man sits.", "hypothesis": "He stands.", "gold": 2, "options": ["x", "y"]}
    path = write.lines(tmp_path / "rows.jsonl", [row])
    names = ("entailment", "neutral", "contradiction")
    fields = {"input": "{premise}</s>{hypothesis}", "label": "gold"}
    (record,), _ = _read(path, fields=fields, label_names=names)
    assert (record.input, record.label) == ("A man sits.</s>He stands.", "contradiction")
    (record,), _ = _read(path, fields={"input": "{premise}\n{options}"})
    assert record.input == "A man sits.\n(a) x\n(b) y"


def test_raw_replies_are_parsed(tmp_path, write):
    rows = [
        {"input": "2 + 2?", "label": "4", "reply": "Two and two. The answer is (2 + 2).\n\nQ: more"},
        {"input": "2 + 3?", "label": "5", "reply": "No idea."},
        {"input": "2 + x?", "label": "6", "reply": "Unknown. The answer is (2 + x)."},
    ]
    path = write.lines(tmp_path / "rows.jsonl", rows)
    records, report = _read(path, parser="svamp", answer="equation")
    assert [record.llm_label for record in records] == ["(2 + 2)", None, None]
    assert [record.rationales for record in records] == [("Two and two.",), (), ("Unknown.",)]
    assert (len(report.failed), len(report.undecided)) == (1, 1)


# Bad input


def test_rows_without_input_broken_lines_and_unknown_labels_are_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row).encode() for row in ROWS]
    lines += [b'{"question": "cut', b'{"why": "w"}', b'{"question": "\xff"}', b'{"question": " "}', b"[1]", b"3"]
    lines += [b'{"question": "q", "answer": "maybe"}', b'{"question": ["q"], "answer": "a1"}']
    path.write_bytes(b"\n".join(lines))
    rows, report = _read(path, fields=FIELDS, labels=("a0", "a1", "a2", "a3"))
    assert len(rows) == 4
    assert [(problem.line, problem.reason) for problem in report.rejected] == [
        (5, "not valid JSON"),
        (6, "the row has no input: field 'question' is absent"),
        (7, "not UTF-8"),
        (8, "the row has no input; got ' '"),
        (9, "expected an object; got list"),
        (10, "expected an object; got int"),
        (11, "unknown label (expected a0, a1, a2, a3)"),
        (12, "input is not text but list"),
    ]
    assert report.rejected[-2].text == "'maybe'"


def test_a_mapping_to_an_absent_field_is_an_error_that_suggests(tmp_path, write):
    path = write.lines(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(
        SourceError, match=r"no row has the field 'wy' that 'rationale' is mapped to; did you mean 'why'"
    ):
        _read(path, fields=FIELDS | {"rationale": "wy"})
    with pytest.raises(
        SourceError, match=r"no row has the field 'question_' .*\(the rows have: answer, question, why\)"
    ):
        _read(path, fields=FIELDS | {"input": "question_"})
    with pytest.raises(SourceError, match="no row has the field 'topic' that 'input' is mapped to"):
        _read(path, fields={"input": "{topic}: {question}"})


def test_a_key_that_records_do_not_have_is_an_error_that_suggests(tmp_path):
    with pytest.raises(ValueError, match="a record has no 'rational'; did you mean 'rationale'"):
        jsonl.dataset({"train": tmp_path / "x"}, fields={"rational": "why"})
    with pytest.raises(ValueError, match="'reply' needs a parser"):
        jsonl.dataset({"train": tmp_path / "x"}, fields={"reply": "text"})
    with pytest.raises(ValueError, match="no parser named 'svmp'; did you mean 'svamp'"):
        jsonl.dataset({"train": tmp_path / "x"}, parser="svmp")
    with pytest.raises(ValueError, match="no files were given"):
        jsonl.dataset({})


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl is missing \(rows of split train\)"):
        _read(tmp_path / "nowhere.jsonl")


def test_a_label_that_is_not_among_the_rows_choices_is_counted(tmp_path, write):
    rows = [{"input": "q", "label": label, "choices": ["x", "y"]} for label in ("x", "z")]
    kept, report = _read(write.lines(tmp_path / "rows.jsonl", rows), answer="choice")
    assert len(kept) == 1
    assert report.rejected[0].reason == "unknown label: 'z' is not among the choices"


def test_bad_weights_and_class_numbers_are_counted(tmp_path, write):
    rows = [
        {"input": "q", "label": 0},
        {"input": "q", "weight": "2"},
        {"input": "q", "weight": -1},
        {"input": "q", "label": 9},
    ]
    kept, report = _read(write.lines(tmp_path / "rows.jsonl", rows), label_names=("no", "yes"))
    assert [row.label for row in kept] == ["no"]
    reasons = [problem.reason for problem in report.rejected]
    assert reasons[0] == "weight is not a number but str"
    assert reasons[1].startswith("weight must be a finite number ≥ 0")
    assert reasons[2].startswith("unknown label 9")


def test_deeply_nested_json_is_a_rejected_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + "[" * 100_000 + "\n")
    rows, report = _read(path, fields=FIELDS)
    assert len(rows) == 1
    assert len(report.rejected) == 1
