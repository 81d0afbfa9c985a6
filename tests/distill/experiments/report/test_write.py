"""All files of a report, and reports on several sets of test rows."""

import csv

import numpy as np
import pytest

from distill.experiments.report import collect, html, write
from distill.experiments.report.analysis import Options
from distill.experiments.report.collect import ReportError
from tests.distill.experiments.report import synthetic


def test_the_page_and_its_twins(methods, tmp_path):
    written = write.write([methods], tmp_path / "r.html", Options(title="A title"))
    assert [path.name for path in written.files] == ["r.html", "r.md", "r.csv", "r.png"]
    assert all(path.stat().st_size > 1000 for path in written.files)
    assert (tmp_path / "r.md").read_text().startswith("# A title\n")
    assert not list(tmp_path.glob("*.part"))


def test_the_same_runs_give_the_same_page(tmp_path):
    for number in range(4):
        correct = [True, False, number > 1, True]
        synthetic.write_run(
            tmp_path / str(number), correct, configuration={"FORM": "ab"[number % 2], "RANDOM_SEED": number // 2}
        )
    pages = [html.render(write.build(collect.collect([tmp_path]), Options(), "t")[0]) for _ in range(2)]
    assert pages[0] == pages[1]


def test_several_data_sets_are_separate_parts(tmp_path):
    random = np.random.default_rng(0)
    for number, data in enumerate(("aaa", "aaa", "bbb", "bbb")):
        synthetic.write_run(
            tmp_path / "runs" / str(number), random.random(20) < 0.5, configuration={"RANDOM_SEED": number},
            fingerprints={"test": data},
        )  # fmt: skip
    with pytest.raises(ReportError, match="never pooled"):
        write.write([tmp_path / "runs"], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    written = write.write([tmp_path / "runs"], tmp_path / "r.html", Options(data="all"))
    assert [len(each.part.runs) for each in written.analyses] == [2, 2]
    keys = [section.key for section in written.document.sections]
    assert len(set(keys)) == len(keys) and "data1-findings" in keys


def test_the_output_is_checked_first(tmp_path):
    for output, message in ((tmp_path / "r.pdf", "must end in .html"), (tmp_path / "no" / "r.html", "does not exist")):
        with pytest.raises(ReportError, match=message):
            write.write([tmp_path], output)
    for output, page in ((tmp_path / "r.md", tmp_path / "r.html"), (tmp_path, tmp_path / "report.html")):
        twins = rf"{page.stem}\.md, {page.stem}\.csv and {page.stem}\.png beside the page"
        with pytest.raises(ReportError, match=f"give --output={page}, which also writes {twins}"):
            write.write([tmp_path], output)


def test_a_report_replaces_reports_and_no_other_file(rates, tmp_path):
    collection = collect.collect([rates])
    write.write([rates], tmp_path / "r.html", Options(), collection)
    for suffix in (".html", ".md", ".csv", ".png"):
        path = tmp_path / f"r{suffix}"
        written = path.read_bytes()
        path.write_bytes(b"run,accuracy\nmine,1\n")
        with pytest.raises(
            ReportError, match=f"r{suffix} exists, and was not written by `distill report`.*--overwrite"
        ):
            write.write([rates], tmp_path / "r.html", Options(), collection)
        assert path.read_bytes() == b"run,accuracy\nmine,1\n"
        path.write_bytes(written)
        collect.check_output(tmp_path / "r.html")  # that of an earlier report is replaced
    (tmp_path / "r.md").write_text("mine")
    write.write([rates], tmp_path / "r.html", Options(), collection, overwrite=True)
    assert (tmp_path / "r.md").read_text() != "mine"


def test_test_rows_with_the_input_of_a_training_row_are_named_beside_the_scores(rates, tmp_path, monkeypatch):
    collection = collect.collect([rates])
    names = ("a.html", "a.md", "a.csv")

    def written():
        write.write([rates], tmp_path / "a.html", Options(), collection)
        return [(tmp_path / name).read_text() for name in names]

    assert not [text for text in written() if "seen" in text or "input of a training row" in text]
    for run in collection.runs:
        monkeypatch.setitem(run.record["data"]["test"], "seen", 7)
    html, markdown, table = written()
    for text in (html, markdown):
        assert "7 of 150 test rows have the input of a training row: the scores are not those of unseen rows" in text
        assert "150 test rows, 7 seen in training" in text
        assert text.count("test rows seen in training") >= 2, "beside the scores of the settings, and of their cost"
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["test_rows_seen"] for row in rows] == ["7"] * 60 + ["", ""] and rows[-1]["state"] == "waiting"
