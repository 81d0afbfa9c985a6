import gzip
import json
import pathlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.tasks import jsonl, row_fields
from distill.tasks.records import Record, Report, RowError, SourceError

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
        (12, "question is not text but list"),
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


def test_the_values_of_rows_are_not_held(tmp_path):
    """Fields that differ from row to row take no memory without limit, and a message names only some of them."""
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for number in range(400):
            file.write(json.dumps({"question": "q", f"key{number}": "x" * 100_000}) + "\n")
    tracemalloc.start()
    with pytest.raises(SourceError, match="no row has the field 'why' that 'rationale' is mapped to") as caught:
        _read(path, fields={"input": "question", "rationale": "why"})
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert str(caught.value).count("key") == row_fields.MOST_NAMES - 1
    path.write_text(json.dumps({"question": "q", "y" * 10**6: 1}) + "\n")
    with pytest.raises(SourceError, match="no row has the field 'input'") as caught:
        _read(path, fields={})
    assert f"(the rows have: question, {'y' * 100}…)" in str(caught.value)


def test_a_key_that_records_do_not_have_is_an_error_that_suggests(tmp_path):
    with pytest.raises(ValueError, match="a record has no field 'rational'; did you mean 'rationale'"):
        jsonl.dataset({"train": tmp_path / "x"}, fields={"rational": "why"})
    with pytest.raises(ValueError, match=r"no field 'why'; the record's field comes first, as {'rationale': 'why'}"):
        jsonl.dataset({"train": tmp_path / "x"}, fields={"why": "rationale"})
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


# Data sets as they are published

HUB = {
    "id": "k1",
    "question": "Where do boats rest at night?",
    "choices": {"label": ["A", "B", "C"], "text": ["attic", "harbour", "oven"]},
    "answerKey": "B",
}
OFFICIAL = {
    "answerKey": "B",
    "id": "k1",
    "question": {
        "stem": "Where do boats rest at night?",
        "choices": [{"label": letter, "text": text} for letter, text in zip("ABC", ["attic", "harbour", "oven"])],
    },
}
LETTERED = "Where do boats rest at night?\n(a) attic\n(b) harbour\n(c) oven"


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        (HUB, {"input": "{question}\n{choices}"}),
        (HUB, {"input": "{question}\n{choices.text}"}),
        (HUB, {"input": "{question}\n{choices.text}", "choices": "choices.text"}),
        (OFFICIAL, {"input": "{question.stem}\n{question.choices}", "choices": "question.choices"}),
        (OFFICIAL, {"input": "{question.stem}\n{question.choices.text}", "choices": "question.choices.text"}),
    ],
)
def test_commonsenseqa_as_published(tmp_path, write, row, fields):
    path = write.lines(tmp_path / "rows.jsonl", [row])
    (record,), report = _read(path, fields=fields | {"label": "answerKey"}, answer="choice")
    assert record == Record("k1", LETTERED, label="harbour", choices=("attic", "harbour", "oven"))
    assert not report.problems


def test_letters_and_numbers_of_choices(tmp_path, write):
    numbered = HUB | {"choices": {"label": ["1", "2", "3"], "text": ["attic", "harbour", "oven"]}}
    rows = [numbered | {"answerKey": key} for key in ("1", 3, "harbour", "4")]
    rows += [HUB | {"answerKey": key} for key in ("a", "D", " C ")]
    path = write.lines(tmp_path / "rows.jsonl", rows)
    records, report = _read(path, fields={"input": "question", "label": "answerKey"}, answer="choice")
    assert [record.label for record in records] == ["attic", "oven", "harbour", "attic", "oven"]
    assert [problem.line for problem in report.rejected] == [4, 6]
    assert row_fields.choice_text("C", ("C", "D", "E"), ("A", "B", "C")) == "C"  # a choice's own text goes first


def test_a_path_alone_and_places_in_lists(tmp_path, write):
    row = {"question": {"stem": "Why?"}, "answers": [{"text": "no"}, {"text": "yes"}], "flat.name": "7"}
    path = write.lines(tmp_path / "rows.jsonl", [row])
    fields = {"input": "question.stem", "label": "answers.1.text", "rationales": "answers.text", "id": "flat.name"}
    (record,), _ = _read(path, fields=fields)
    assert record == Record("7", "Why?", label="yes", rationales=("no", "yes"))


def test_paths_that_lead_nowhere_suggest_those_that_do(tmp_path, write):
    path = write.lines(tmp_path / "rows.jsonl", [OFFICIAL])
    with pytest.raises(SourceError, match=r"'question\.stam' that 'input' is mapped to; did you mean 'question\.stem'"):
        _read(path, fields={"input": "question.stam"})
    with pytest.raises(SourceError, match=r"not text but an object with 'choices, stem'; name one of its fields"):
        _read(path, fields={"input": "question"})
    with pytest.raises(SourceError, match=r"field 'question' is not text but an object with 'choices, stem'"):
        _read(path, fields={"input": "Q: {question}"})


def test_gsm8k_as_published(tmp_path, write):
    rows = [
        {"question": "How many pears?", "answer": "Each box holds 8, so 6*8=<<6*8=48>>48 pears.\n#### 48"},
        {"question": "How many plums?", "answer": "# twice\n#### of #### 1,048.50"},
        {"question": "How many figs?", "answer": "Nobody knows."},
        {"question": "How many nuts?", "answer": "Many.\n#### "},
        {"question": "How many?", "answer": None},
    ]
    path = write.lines(tmp_path / "rows.jsonl", rows)
    records, report = _read(path, fields={"input": "question", "solution": "answer"}, answer="equation")
    assert [(record.label, record.rationales) for record in records] == [
        ("48", ("Each box holds 8, so 6*8=48 pears.",)),
        ("1048.50", ("# twice\n#### of",)),
        (None, ()),
    ]
    assert [(problem.line, problem.reason) for problem in report.rejected] == [
        (3, "no '####' in the solution"),
        (4, "no label after '####' in the solution"),
    ]
    other = write.lines(tmp_path / "other.jsonl", [{"question": "q", "answer": "Two and two. Answer: 4"}])
    (record,), _ = _read(other, fields={"input": "question", "solution": "answer"}, solution_marker="Answer:")
    assert (record.label, record.rationales) == ("4", ("Two and two.",))


def test_gsm8k_as_a_teachers_reply(tmp_path, write):
    rows = [
        {"question": "How many pears?", "answer": "Each box holds 8, so 6*8=<<6*8=48>>48 pears.\n#### 48"},
        {"question": "How many figs?", "answer": "Two and <<1+1=2>>2.\n#### many"},
    ]
    path = write.lines(tmp_path / "rows.jsonl", rows)
    fields = {"input": "question", "reply": "answer"}
    records, report = _read(path, fields=fields, parser="svamp", answer="equation")
    assert [(record.llm_label, record.rationales) for record in records] == [
        ("48", ("Each box holds 8, so 6*8=48 pears.",)),
        (None, ("Two and 2.",)),
    ]
    assert [(problem.line, problem.text) for problem in report.undecided] == [(2, rows[1]["answer"])]
    records, _ = _read(path, fields=fields, parser="svamp", mode="strict", answer="equation")
    assert [(record.llm_label, record.rationales) for record in records] == [(None, ()), (None, ())]


# Files


def test_compressed_files_lists_and_patterns(tmp_path, write, monkeypatch):
    for name, rows in (("a-2", ROWS[2:3]), ("a-1", ROWS[:2])):
        write.lines(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[3:]).encode()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for files in (["a-*.jsonl", "b.jsonl.gz"], [pathlib.Path("a-1.jsonl"), "~/a-2.jsonl", "b.*"], ("[ab]*",)):
        records, _ = _read(files, fields=FIELDS)
        assert [record.input for record in records] == ["q0?", "q1?", "q2?", "q3?"]
        assert [record.id for record in records] == ["train-0", "train-1", "train-2", "train-3"]
        assert [record.provenance["line"] for record in records] == [1, 2, 1, 1]
    write.lines(tmp_path / "odd[1].jsonl", ROWS[:1])
    assert len(_read("odd[1].jsonl", fields=FIELDS)[0]) == 1


def test_files_and_fields_of_the_wrong_type_are_one_error(tmp_path):
    for files in (
        "train.jsonl",
        ["train.jsonl"],
        {"train": 3},
        {"train": []},
        {"train": ["a", None]},
        {"train": {"a": "b"}},
    ):
        with pytest.raises(ValueError, match="FILES"):
            jsonl.dataset(files)
    for fields in ("question", {"input": 3}, {"input": ["a"]}, {"input": ""}):
        with pytest.raises(ValueError, match="FIELDS"):
            jsonl.dataset({"train": "x"}, fields=fields)
    with pytest.raises(FileNotFoundError, match=r"no file matches .*rows-\*\.jsonl \(rows of split train\)"):
        _read(tmp_path / "rows-*.jsonl")
    with pytest.raises(SourceError, match="is a folder; expected a file"):
        _read(tmp_path)


# Hostile rows


def test_a_missing_value_is_no_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [
        '{"input": "a", "rationale": NaN, "label": NaN, "id": NaN, "weight": NaN}',
        '{"input": "b", "rationales": [NaN, "why"], "label": " "}',
        '{"input": NaN, "label": "x"}',
        '{"input": "c", "label": Infinity}',
        '{"input": "d", "label": "x", "weight": 1e400}',
        '{"input": "e", "label": "\\ud83d"}',
        '{"input": "f", "label": "x", "other": "\\ud83d"}',
        '{"input": "g", "label": "x", "weight": 1' + "0" * 400 + "}",
        '{"input": "h", "id": ["x"]}',
        '{"input": "i\\u0000", "label": "\\u0007x"}',
    ]
    path.write_text("\n".join(lines))
    records, report = _read(path)
    assert [(record.input, record.label, record.rationales) for record in records] == [
        ("a", None, ()),
        ("b", None, ("why",)),
        ("f", "x", ()),
        ("i\0", "\ax", ()),
    ]
    assert (records[0].id, records[0].weight) == ("train-0", 1.0)
    assert [(problem.line, problem.reason) for problem in report.rejected] == [
        (3, "the row has no input: field 'input' is null"),
        (4, "an infinite number"),
        (5, "an infinite number"),
        (6, "label holds half of a surrogate pair, which is no character"),
        (8, "weight must be a finite number ≥ 0; got 1" + "0" * 58 + "…"),
        (9, "id is not text but list"),
    ]


SHARED = pathlib.Path(__file__).parents[3] / "shared" / "cases" / "hostile"


@pytest.mark.skipif(not SHARED.exists(), reason="the collection of hostile rows is not here")
@pytest.mark.parametrize("name", ["bigint", "surrogate", "weight_hugeint"])
def test_the_hostile_row_alone_is_rejected(name):
    fields = {"input": "question", "rationale": "why", "label": "answer"}
    records, report = _read(SHARED / f"train_{name}.jsonl", fields=fields)
    assert len(records) == 200
    assert len(report.rejected) == 1


def test_the_text_and_the_id_of_a_row_to_answer():
    assert jsonl.text_of({"q": {"stem": "a"}, "c": ["x", "y"]}, "{q.stem}: {c}") == "a: (a) x\n(b) y"
    assert [jsonl.identity_of({"id": value}) for value in (1, "x", None, True, 1.5)] == [1, "x", None, True, 1.5]
    assert jsonl.identity_of({"a": {"b": 3}}, "a.b") == 3
    assert jsonl.identity_of({}) is None
    for value in ("\ud83d", [1], {"a": 1}, float("nan")):
        with pytest.raises(RowError, match=r"^id "):
            jsonl.identity_of({"id": value})
    for value in ("a\ud83d", [], {}, None, " ", {"a": "b"}, float("inf"), 10**5000):
        with pytest.raises(RowError, match="field 'q'"):
            jsonl.text_of({"q": value}, "q")


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("\ud83d")
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "label", "a", "\ud800"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    st.lists(st.dictionaries(st.sampled_from([*jsonl.FIELDS, "q", "\udc00"]), values), min_size=1, max_size=4),
    st.data(),
)
def test_any_row_is_a_record_or_counted(tmp_path_factory, rows, data):
    path = tmp_path_factory.getbasetemp() / "any_rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"input": "good", "q": {"a": "b"}}, *rows]))
    fields = data.draw(
        st.sampled_from([{}, {"input": "q.a"}, {"input": "{q}"}, {"solution": "q"}, {"choices": "q", "label": "q.a"}])
    )
    report = Report()
    try:
        records = list(jsonl.JsonLines({"train": path}, fields, parser="cqa")("train", report))
    except SourceError:
        return
    assert len(records) + len(report.rejected) == len(rows) + 1
    for record in records:
        json.dumps(record.provenance | {"id": record.id}, allow_nan=False)
        "".join([record.id, record.input, record.label or "", *record.rationales, *record.choices]).encode()


def test_errors_of_values_have_the_names_of_the_rows(tmp_path, write):
    fields = {"input": "q", "choices": "options", "weight": "w", "rationales": "whys", "rationale_teachers": "by"}
    fields |= {"id": "nr", "label": "a", "label_log_probs": "votes"}
    rows = [
        {
            "q": "?",
            "options": ["a", "b"],
            "w": 1,
            "whys": ["y"],
            "by": ["palm"],
            "nr": 1,
            "a": "a",
            "votes": {"a": 0.0},
        },
        {"q": "?", "options": ["a", None]},
        {"q": "?", "options": [["a"], "b"]},
        {"q": "?", "options": {"text": ["a", None], "label": ["A", "B"]}},
        {"q": "?", "options": [{"text": "a"}, {"text": None}]},
        {"q": "?", "options": {"text": ["a", "b"], "label": ["A"]}},
        {"q": "?", "options": {"a": "b"}},
        {"q": "?", "w": "1"},
        {"q": "?", "w": -1},
        {"q": "?", "whys": [["y"]]},
        {"q": "?", "whys": ["y"], "by": ["palm", "gpt"]},
        {"q": "?", "nr": []},
        {"q": "?", "a": []},
        {"q": "?", "votes": 3},
    ]
    kept, report = _read(write.lines(tmp_path / "rows.jsonl", rows), fields=fields)
    assert len(kept) == 1 and kept[0].named == f"row '1' ({tmp_path / 'rows.jsonl'}:1)"
    assert [problem.reason for problem in report.rejected] == [
        "options[1] is null; expected a text or a number",
        "options[0] is not text but list",
        "options.text[1] is null; expected a text or a number",
        "options[1].text is null; expected a text or a number",
        "options must have as many texts as labels; got 2 texts and 1 labels",
        "options is not text but an object with 'a'; name one of its fields, as in FIELD.a",
        "w is not a number but str",
        "w must be a finite number ≥ 0; got -1",
        "whys is not text but list",
        "by must name one teacher per rationale; got 2 for 1 rationales",
        "nr is not text but list",
        "a is not text but list",
        "votes is not an object of numbers by label but int",
    ]
