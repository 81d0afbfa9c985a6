import json

import pytest

from distill.tasks import anli1, asdiv, cqa, esnli, svamp
from distill.tasks.records import Record, Report, RowError, SourceError
from distill.tasks.sources import MissingFileError


def _read(dataset, split="train", whole=True):
    report = Report()
    dataset = dataset.replace(validation_fraction=0.0) if whole else dataset
    return list(dataset.records(split, report)), report


def test_cqa_rows_match_their_replies(cqa_dir):
    rows, report = _read(cqa.dataset(cqa_dir))
    assert [row.llm_label for row in rows] == ["shelf", "zoo", None, None, "Rome", "shelf"]
    assert [row.label for row in rows] == ["shelf", "pond", "zoo", "bank", "Rome", "shelf"]
    assert [len(row.rationales) for row in rows] == [1, 1, 1, 1, 1, 1]
    assert rows[0].rationales == ("It must be a place for items.",)
    assert rows[0].input == (
        "Where would you put item 0?\nAnswer Choices:\n(a) shelf\n(b) pond\n(c) zoo\n(d) bank\n(e) Rome"
    )
    assert rows[4].choices == ("shelf", "pond", "zoo", "bank", "Rome")
    assert report.rows == 6
    assert report.failed == []
    assert [(p.id, p.line, p.reason) for p in report.undecided] == [
        ("row2", 3, "several options, none of them first"),
        ("row3", 4, "no single option after the marker"),
    ]
    assert rows[5].provenance["teacher"] == "palm"
    assert rows[5].provenance["line"] == 6


def test_strict_mode_keeps_the_published_labels(cqa_dir):
    rows, _ = _read(cqa.dataset(cqa_dir, mode="strict"))
    assert [row.llm_label for row in rows] == ["shelf", "zoo", "zoo or", None, "rome", "shelf or"]
    assert [len(row.rationales) for row in rows] == [1, 1, 1, 0, 1, 1]


def test_a_failed_reply_leaves_the_gold_label(svamp_dir):
    rows, report = _read(svamp.dataset(svamp_dir))
    assert [row.llm_label for row in rows] == ["(3 + 2)", None, "(5 * 2) - 3", None, "(7 + 2)", "(8 + 3)"]
    assert (rows[1].label, rows[1].rationales) == ("( 4.0 + 2.0 )", ())
    assert rows[3].rationales == ("6 and x.",)
    assert len(report.failed) == 1
    assert len(report.undecided) == 1
    file = svamp_dir / "svamp" / "svamp_train.json"
    assert str(report) == (
        "6 rows used; 1 with a reply that failed, 1 with a reply that names no single answer "
        f"(1 × no answer marker, first: {file}:2; 1 × the answer is not arithmetic, first: {file}:4)"
    )


@pytest.mark.parametrize("teacher", ["palm", "gpt-neox"])
@pytest.mark.parametrize("module", [esnli, anli1])
def test_nli_from_files(nli_dir, module, teacher):
    for split in ("train", "validation", "test"):
        rows, report = _read(module.dataset(nli_dir, teacher=teacher), split, whole=False)
        assert [row.label for row in rows] == ["entailment", "neutral", "contradiction", "entailment"]
        assert [row.llm_label for row in rows] == [row.label for row in rows]
        assert rows[1].input == "Man 1 sits.</s>A man stands."
        assert rows[1].rationales == ("Because 1.",)
        assert not report.problems


def test_human_explanations_and_none(nli_dir, cqa_dir):
    rows, _ = _read(esnli.dataset(nli_dir, teacher="human"))
    assert rows[2].rationales == ("why 2",)
    assert rows[2].llm_label is None
    rows, _ = _read(cqa.dataset(cqa_dir, teacher="none"))
    assert all(row.rationales == () and row.llm_label is None for row in rows)
    rows, _ = _read(cqa.dataset(cqa_dir, teacher="human"))
    assert all(row.rationales == ("because it is so",) for row in rows)


def test_validation_is_cut_from_train_and_told_apart(svamp_dir):
    dataset = svamp.dataset(svamp_dir, validation_fraction=0.5)
    assert dataset.splits == ("train", "validation", "test")
    train, train_report = _read(dataset, "train", whole=False)
    validation, validation_report = _read(dataset, "validation", whole=False)
    assert len(train) + len(validation) == 6
    assert len(train_report.problems) + len(validation_report.problems) == 2
    for rows, report in ((train, train_report), (validation, validation_report)):
        assert {problem.id for problem in report.problems} <= {row.id for row in rows}


def test_asdiv_adds_its_training_rows_to_svamps(svamp_dir, write):
    row = {"Body": "Seven red apples.", "Question": "How many?", "Formula": "7=7", "Answer": "7 (apples)"}
    write.lines(svamp_dir / "asdiv" / "asdiv_train.json", [row])
    write.array(svamp_dir / "asdiv" / "llm" / "train_CoT_0.json", ["Seven. The answer is (7)."])
    dataset = asdiv.dataset(svamp_dir)
    rows, _ = _read(dataset)
    assert len(rows) == 7
    assert rows[-1].input == "Seven red apples.\nHow many?"
    assert (rows[-1].label, rows[-1].llm_label) == ("7", "(7)")
    assert dataset.same_answer(rows[-1], "(7)")
    assert len(_read(dataset, "test")[0]) == 6


def test_svamp_is_split_from_the_authors_file_where_there_are_no_others(tmp_path, write):
    original = [
        {"ID": f"c{n}", "Body": f"body {n}", "Question": "How many?", "Equation": f"( {n}.0 )"} for n in range(1000)
    ]
    write.array(tmp_path / "svamp" / "SVAMP.json", original)
    dataset = svamp.dataset(tmp_path, teacher="none")
    train, test = _read(dataset)[0], _read(dataset, "test")[0]
    assert (len(train), len(test)) == (800, 200)
    assert not {row.input for row in train} & {row.input for row in test}
    assert train[0].input == f"body {train[0].provenance['line'] - 1}\nHow many?"


def test_reply_files_are_taken_in_the_order_of_their_numbers(tmp_path, write):
    rows = [{"input": f"row {n}", "label": f"{n}"} for n in range(12)]
    write.lines(tmp_path / "svamp" / "svamp_train.json", rows)
    for n in range(12):
        write.array(tmp_path / "svamp" / "llm" / f"train_CoT_{n}.json", [f"It is {n}. The answer is ({n})."])
    rows, _ = _read(svamp.dataset(tmp_path))
    assert [row.llm_label for row in rows] == [f"({n})" for n in range(12)]


# Bad input


def test_a_missing_file_is_named_with_its_neighbour(tmp_path, write):
    write.lines(tmp_path / "svamp" / "svamp_trian.json", [])
    with pytest.raises(MissingFileError, match=r"svamp_train\.json is missing.*svamp_trian\.json is there"):
        _read(svamp.dataset(tmp_path, teacher="none"))
    with pytest.raises(FileNotFoundError, match=r"cqa_train.json is missing .*cqa does not exist"):
        _read(cqa.dataset(tmp_path, teacher="none"))


def test_missing_replies_are_named(svamp_dir):
    (svamp_dir / "svamp" / "llm" / "train_CoT_0.json").unlink()
    with pytest.raises(MissingFileError, match=r"train_CoT_0\.json is missing \(the teacher's replies\)"):
        _read(svamp.dataset(svamp_dir))


def test_a_gap_between_reply_files_is_an_error(cqa_dir):
    llm = cqa_dir / "cqa" / "llm"
    (llm / "train_CoT_1.json").rename(llm / "train_CoT_2.json")
    with pytest.raises(SourceError, match=r"train_CoT_1\.json is missing, though number 2 is there"):
        _read(cqa.dataset(cqa_dir))


def test_truncated_replies_are_an_error_with_the_place(svamp_dir):
    file = svamp_dir / "svamp" / "llm" / "train_CoT_0.json"
    file.write_text(file.read_text()[:-40])
    with pytest.raises(SourceError, match=r"train_CoT_0\.json:1:\d+: not valid JSON.*\(the teacher's replies\)"):
        _read(svamp.dataset(svamp_dir))


def test_replies_that_are_not_utf8_are_an_error_with_the_place(svamp_dir):
    file = svamp_dir / "svamp" / "llm" / "train_CoT_0.json"
    file.write_bytes(b'["first",\n"caf\xe9"]')
    with pytest.raises(SourceError, match=r"train_CoT_0\.json:2: not UTF-8 \(byte 0xe9"):
        _read(svamp.dataset(svamp_dir))


@pytest.mark.parametrize("number", [5, 7])
def test_replies_and_rows_must_be_equally_many(svamp_dir, write, number):
    file = svamp_dir / "svamp" / "llm" / "train_CoT_0.json"
    replies = [*json.loads(file.read_text()), "One more. The answer is (1)."][:number]
    write.array(file, replies)
    with pytest.raises(SourceError, match=rf"svamp_train\.json has 6 rows, but {number} replies were found"):
        _read(svamp.dataset(svamp_dir))


def test_fewer_replies_can_be_allowed(svamp_dir, write):
    file = svamp_dir / "svamp" / "llm" / "train_CoT_0.json"
    write.array(file, json.loads(file.read_text())[:2])
    rows, report = _read(svamp.dataset(svamp_dir, missing_replies="keep"))
    assert len(rows) == 6
    assert report.counts()["no reply"] == 4
    assert all(row.label and not row.rationales for row in rows[2:])
    rows, _ = _read(svamp.dataset(svamp_dir, missing_replies="drop"))
    assert len(rows) == 2


def test_a_reply_that_is_not_text_costs_its_row_the_rationale(svamp_dir, write):
    file = svamp_dir / "svamp" / "llm" / "train_CoT_0.json"
    write.array(file, [None, *json.loads(file.read_text())[1:]])
    rows, report = _read(svamp.dataset(svamp_dir))
    assert rows[0].rationales == ()
    assert report.failed[0].reason == "the reply is not text but NoneType"


def test_broken_rows_are_counted_and_the_others_keep_their_replies(svamp_dir, write):
    file = svamp_dir / "svamp" / "svamp_train.json"
    lines = file.read_bytes().splitlines()
    lines[0] = lines[0][:20]
    lines[2] = b'{"input": "caf\xe9", "label": "1"}'
    lines[3] = b'{"label": "( 1.0 )"}'
    file.write_bytes(b"\n".join(lines))
    rows, report = _read(svamp.dataset(svamp_dir))
    assert [row.llm_label for row in rows] == [None, "(7 + 2)", "(8 + 3)"]
    assert [(p.line, p.reason) for p in report.rejected] == [
        (1, "not valid JSON"),
        (3, "not UTF-8"),
        (4, "field 'input' is absent"),
    ]
    assert all(problem.file == str(file) for problem in report.rejected)


def test_an_unknown_label_is_counted(nli_dir, write):
    file = nli_dir / "esnli" / "esnli_train.json"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["label"] = -1
    write.lines(file, rows)
    kept, report = _read(esnli.dataset(nli_dir))
    assert len(kept) == 3
    assert report.rejected[0].line == 2
    assert report.rejected[0].reason.startswith("unknown label -1 (expected 0 to 2, or entailment")


def test_an_answer_that_is_no_choice_is_counted(cqa_dir, write):
    file = cqa_dir / "cqa" / "cqa_train.json"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["answer"] = "nowhere"
    rows[2]["choices"] = "pond"
    rows[3]["question"] = " "
    write.lines(file, rows)
    kept, report = _read(cqa.dataset(cqa_dir))
    assert [row.id for row in kept] == ["row0", "row4", "row5"]
    reasons = [problem.reason for problem in report.rejected]
    assert reasons[0] == "unknown label: the answer 'nowhere' is not among the choices"
    assert reasons[1].startswith("choices must be a list of texts")
    assert reasons[2].startswith("the row has no input")


def test_a_file_without_one_usable_row_is_an_error(svamp_dir, write):
    write.lines(svamp_dir / "svamp" / "svamp_train.json", ['{"inp', "{}"])
    with pytest.raises(SourceError, match=r"none of its 2 rows can be used; line 1: not valid JSON"):
        _read(svamp.dataset(svamp_dir))
    write.lines(svamp_dir / "svamp" / "svamp_train.json", [])
    with pytest.raises(SourceError, match="it has no rows"):
        _read(svamp.dataset(svamp_dir))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"teacher": "bard"}, "teacher must be one of palm, gpt-neox"),
        ({"mode": "lenient"}, "mode must be 'improved' or 'strict'"),
        ({"missing_replies": "guess"}, "missing_replies must be"),
    ],
)
def test_bad_arguments(tmp_path, argument, message):
    with pytest.raises(ValueError, match=message):
        svamp.dataset(tmp_path, **argument)


def test_an_unknown_split_is_an_error(svamp_dir):
    with pytest.raises(ValueError, match="data set 'svamp' has no split 'dev'; it has train, validation, test"):
        list(svamp.dataset(svamp_dir).records("dev"))
    with pytest.raises(ValueError, match="svamp has no files for split 'dev'"):
        list(svamp.source(svamp_dir)("dev"))


def test_declaring_a_set_reads_nothing(tmp_path):
    assert cqa.dataset(tmp_path / "nowhere").splits == ("train", "validation", "test")


def test_a_record_checks_itself():
    with pytest.raises(RowError, match="no input"):
        Record(id="1", input="  ")
    with pytest.raises(RowError, match="weight must be a finite number"):
        Record(id="1", input="x", weight=float("nan"))
    with pytest.raises(RowError, match="rationales must be a tuple"):
        Record(id="1", input="x", rationales="why")
