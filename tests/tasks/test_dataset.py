import copy

import pytest

from distill.tasks import jsonl, sources, teachers
from distill.tasks.controls import ShuffledRationales
from distill.tasks.dataset import Dataset
from distill.tasks.records import REPLY, PlainSource, Record, Report, RowError, SourceError


def rows(split):
    for number in range(20):
        yield Record(id=f"{split}{number}", input=f"{split} question {number}", label="yes" if number else "maybe")


def test_a_bare_function_is_a_source():
    dataset = Dataset("demo", rows)
    assert dataset.splits == ("train", "validation", "test")
    train, validation = list(dataset.records("train")), list(dataset.records("validation"))
    assert len(train) + len(validation) == 20
    assert len(list(dataset.records("test"))) == 20


def test_a_functions_own_splits_are_honoured():
    def read(split):
        return rows(split)

    read.splits = ("train", "validation", "test", "hard")
    dataset = Dataset("demo", read)
    assert dataset.splits == ("train", "validation", "test", "hard")
    assert not dataset.cuts_validation
    assert len(list(dataset.records("train"))) == 20
    assert Dataset("demo", PlainSource(rows, splits=("train",)), validation_fraction=0.0).splits == ("train",)


def test_reading_is_lazy():
    def read(split):
        yield Record(id="1", input="first")
        raise AssertionError("read on")

    records = Dataset("demo", read, validation_fraction=0.0).records("train")
    assert next(records).id == "1"


def test_labels_outside_the_set_are_reported():
    report = Report()
    dataset = Dataset("demo", rows, labels=("yes", "no"), validation_fraction=0.0)
    assert len(list(dataset.records("train", report))) == 19
    (problem,) = report.rejected
    assert (problem.id, problem.reason) == ("train0", "unknown label (expected yes, no)")
    assert report.rows == 19


def test_rejected_rows_of_a_cut_file_are_told_once():
    dataset = Dataset("demo", rows, labels=("yes", "no"))
    reports = {split: Report() for split in ("train", "validation")}
    for split, report in reports.items():
        list(dataset.records(split, report))
    assert len(reports["train"].rejected) == 1
    assert not reports["validation"].rejected


def test_a_report_counts_both_parts_of_a_cut_and_their_inputs():
    asked = ["question 0", "a", "a", "other", "question 0"]  # the hash holds out "a"
    read = lambda split: (Record(id=str(number), input=text) for number, text in enumerate(asked))  # noqa: E731
    for split, number in (("train", 3), ("validation", 2)):
        report = Report()
        assert len(list(Dataset("demo", read).records(split, report))) == number
        held_out = report.held_out
        assert (held_out.rows, held_out.of_rows, held_out.inputs()) == (2, 5, (1, 3))
    report = Report()
    list(Dataset("demo", read).records("test", report))
    assert report.held_out is None


class _Published(jsonl.JsonLines):
    may_download = True


@pytest.mark.parametrize(
    "wrap",
    [
        ShuffledRationales,
        lambda source: sources.Concatenated({"train": [(source, "train")]}),
        lambda source: PlainSource(source),
        lambda source: teachers.joined({"a": Dataset("a", source), "b": Dataset("b", source)}).source,
        lambda source: ShuffledRationales(sources.Concatenated({"train": [(source, "train")]})),
    ],
)
def test_sources_over_others_have_what_these_have_beside_their_splits(wrap):
    files, fields = {"train": "rows.jsonl"}, {"input": "question"}
    inner = _Published(files, fields)
    outer = copy.deepcopy(wrap(inner))
    assert (outer.may_download, outer.input_field, outer.row_format) == (True, "question", inner.row_format)
    assert not wrap(jsonl.JsonLines(files, fields)).may_download


def test_one_source_of_several_that_may_download_is_enough():
    plain, published = (kind({"train": "rows.jsonl"}) for kind in (jsonl.JsonLines, _Published))
    assert teachers.joined({"a": Dataset("a", plain), "b": Dataset("b", published)}).source.may_download
    assert sources.Concatenated({"train": [(plain, "train")], "test": [(published, "train")]}).may_download
    made_up = PlainSource(rows)
    assert (made_up.may_download, made_up.input_field, made_up.row_format) == (False, "input", None)


def test_bad_declarations():
    with pytest.raises(ValueError, match="answer must be one of text, choice, equation; got 'sum'"):
        Dataset("demo", rows, answer="sum")
    with pytest.raises(ValueError, match="validation_fraction must be in"):
        Dataset("demo", rows, validation_fraction=1.0)
    with pytest.raises(TypeError, match="a source must be callable"):
        Dataset("demo", [1, 2])


def test_long_texts_are_cut_in_reports_and_places_are_named():
    report = Report()
    report.add("row", "too odd", file="rows.jsonl", line=3, text="x" * 500)
    assert len(report.problems[0].text) == 198
    assert str(report.problems[0]).startswith("rows.jsonl:3: too odd — xxx")


def test_problems_of_a_cut_file_go_with_their_rows_in_the_order_of_the_file():
    def read(split, report=None):
        for number in range(40):
            if number % 7 == 3:
                report.add("row", "not valid JSON", line=number)
                continue
            report.add(REPLY, "no answer marker", line=number, id=str(number))
            yield Record(id=str(number), input=f"question {number}", label="x")

    read.splits = ("train",)
    dataset = Dataset("demo", read)
    told = {}
    for split in ("train", "validation"):
        report = Report()
        kept = [record.id for record in dataset.records(split, report)]
        told[split] = report
        assert [problem.id for problem in report.failed] == kept
        lines = [problem.line for problem in report.problems]
        assert lines == sorted(lines)
    assert len(told["train"].rejected) == 6
    assert not told["validation"].rejected


def test_one_row_cannot_be_both_and_the_remedy_is_named():
    dataset = Dataset("demo", lambda split: iter([Record(id="1", input="a", label="b")]))
    assert len(list(dataset.records("train"))) == 1
    with pytest.raises(SourceError, match=r"no row is left for 'validation'.*FILES=\{'train': …, 'validation': …\}"):
        list(dataset.records("validation"))


def test_a_split_without_rows_names_the_row_that_was_rejected(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"input": "a", "label": "b"}\n{broken\n')
    with pytest.raises(SourceError, match=r"\(1 row rejected, first: .*broken\.jsonl:2: not valid JSON"):
        list(jsonl.dataset({"train": path}).records("validation"))


def test_missing_training_rows_are_explained_where_validation_rows_are_a_part_of_them(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"input": "x", "label": "y"}\n')
    data = jsonl.dataset({"train": tmp_path / "train.jsonl"})
    wanted = r"train\.jsonl is missing \(rows of split train\)"  # a file of another name is not suggested
    with pytest.raises(
        FileNotFoundError, match=wanted + r"\. The validation rows are a part of these training rows, so "
    ):
        next(data.records("validation"))
    with pytest.raises(FileNotFoundError, match=wanted + "$"):
        next(data.records("train"))


def test_a_record_holds_what_can_be_encoded_and_seen():
    record = Record(id="1", input="a", label=" \u200b", llm_label="\n", rationales=("why", " ", "\x00"), weight=2)
    assert (record.label, record.llm_label, record.rationales, record.weight) == (None, None, ("why",), 2.0)
    for weight in (-1, float("nan"), float("inf"), 1e39, 10**400, 10**5000):
        with pytest.raises(RowError, match="weight must be a finite number"):
            Record(id="1", input="a", weight=weight)
    for text in ("", " ", "\n\t"):
        with pytest.raises(RowError, match="the row has no input"):
            Record(id="1", input=text)


def test_reasons_and_texts_of_problems_can_be_printed():
    report = Report()
    report.add("row", "odd \ud83d", id="\ud83d", text="\ud83d")
    assert str(report.problems[0]).encode("utf-8")
    with pytest.raises(RowError) as caught:
        Record(id="1", input="x" * 10, weight=-1, rationales=("y" * 100_000,) * 3 + (3,))
    assert len(str(caught.value)) < 200


def test_texts_that_cannot_be_encoded_are_rejected_whatever_the_source():
    half = "\ud83d"
    changes = [{"id": half}, {"input": f"a{half}"}, {"label": half}, {"rationales": (half,)}, {"choices": (half,)}, {}]
    rows = [Record(**({"id": "1", "input": "a"} | change)) for change in changes]
    report = Report()
    assert (
        list(Dataset("demo", lambda split: iter(rows), validation_fraction=0.0).records("train", report)) == rows[-1:]
    )
    names = ["id", "input", "label", "a rationale", "a choice"]
    reasons = [f"{name} holds half of a surrogate pair, which is no character" for name in names]
    assert [problem.reason for problem in report.rejected] == reasons
    assert str(report.problems[0]).encode()


def test_a_report_in_one_line_names_the_first_place_of_each_reason():
    report = Report()
    report.rows = 5
    for line in (3, 7):
        report.add("row", "not valid JSON", file="rows.jsonl", line=line)
    report.add(REPLY, "no answer marker", id="x")
    assert str(report) == (
        "5 rows used; 2 rejected, 1 with a reply that failed "
        "(2 × not valid JSON, first: rows.jsonl:3; 1 × no answer marker)"
    )
