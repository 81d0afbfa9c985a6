"""The published figures, on the real data; skipped where it is absent."""

import collections

import pytest

from distill.data import report as data_report
from distill.tasks import cqa, metrics, parsers, svamp
from distill.tasks.records import Report


def _read(dataset, split):
    report = Report()
    return list(dataset.replace(validation_fraction=0.0).records(split, report)), report


def _strict_agreement(dataset, rows):
    agreeing = sum(data_report.strict_agreement(dataset.answer, row.label, row.llm_label or "") for row in rows)
    return agreeing, len(rows)


@pytest.mark.parametrize(
    ("module", "split", "agreeing", "rows", "failed"),
    [
        (cqa, "train", 7234, 9741, 3),
        (cqa, "test", 943, 1221, 0),
        (svamp, "train", 588, 800, 13),
        (svamp, "test", 148, 200, 2),
    ],
)
def test_strict_mode_gives_the_published_figures(paper_data, module, split, agreeing, rows, failed):
    dataset = module.dataset(paper_data, mode="strict")
    records, report = _read(dataset, split)
    assert _strict_agreement(dataset, records) == (agreeing, rows)
    assert len(report.failed) == failed
    assert not report.rejected


@pytest.mark.parametrize(
    ("module", "split", "agreeing", "undecided", "failed"),
    [
        (cqa, "train", 7388, 182, 0),
        (cqa, "test", 962, 16, 0),
        (svamp, "train", 595, 18, 14),
        (svamp, "test", 155, 5, 2),
    ],
)
def test_improved_mode_reads_more(paper_data, module, split, agreeing, undecided, failed):
    dataset = module.dataset(paper_data)
    records, report = _read(dataset, split)
    found = metrics.teacher_accuracy(records, dataset.answer)
    assert found["teacher_accuracy"] * found["rows"] == pytest.approx(agreeing)
    assert len(report.undecided) == undecided
    assert len(report.failed) == failed
    assert sum(bool(record.rationales) for record in records) == len(records) - failed
    assert all(record.llm_label in record.choices for record in records if record.choices and record.llm_label)


def test_published_labels_outside_the_choices(paper_data):
    records, _ = _read(cqa.dataset(paper_data, mode="strict"), "train")
    outside = [record for record in records if record.llm_label and record.llm_label not in record.choices]
    assert len(outside) == 445


@pytest.mark.parametrize(
    ("module", "split", "reasons"),
    [
        (
            cqa,
            "train",
            {
                "several options, none of them first": 179,
                "upper and lower case": 123,
                "several options: the first is taken, without the conjunction": 105,
                "the text is not the choice's text: the letter is taken": 32,
                "the final period belongs to the choice": 6,
                "no option letter after the marker": 3,
                "letter and text disagree: the letter is taken": 1,
            },
        ),
        (
            svamp,
            "train",
            {
                "the answer is not arithmetic": 18,
                "the expression continues after its brackets": 16,
                "units, currency or thousands separators": 2,
                "the reply breaks off within its answer": 1,
            },
        ),
    ],
)
def test_every_row_that_differs_has_its_reason(paper_data, module, split, reasons):
    records, _ = _read(module.dataset(paper_data), split)
    counted = collections.Counter()
    for record in records:
        origin = record.provenance
        difference = parsers.difference(origin["parser"], origin["reply"], record.choices)
        if difference is not None:
            counted.update(difference.reasons)
    assert counted == reasons


def test_the_authors_file_gives_the_same_split(paper_data, tmp_path):
    (tmp_path / "svamp").mkdir()
    (tmp_path / "svamp" / "SVAMP.json").write_bytes((paper_data / "svamp" / "SVAMP.json").read_bytes())
    for split in ("train", "test"):
        ours, _ = _read(svamp.dataset(tmp_path, teacher="none"), split)
        theirs, _ = _read(svamp.dataset(paper_data, teacher="none"), split)
        assert [(row.input, row.label) for row in ours] == [(row.input, row.label) for row in theirs]
