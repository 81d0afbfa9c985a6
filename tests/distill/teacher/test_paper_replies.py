"""The replies that came with the paper, replayed through the whole phase, give the records that the paper's files give."""

import dataclasses
import json

import pytest

from distill.tasks import cqa, jsonl, svamp
from distill.tasks.records import Report
from distill.teacher import ExtractConfig, RecordedConfig, extract, summarise
from distill.teacher.job.progress import Silent

SETS = {"cqa": cqa, "svamp": svamp}


@pytest.mark.parametrize(("name", "split"), [("svamp", "train"), ("svamp", "test"), ("cqa", "train"), ("cqa", "test")])
def test_replayed_replies_give_the_records_of_the_paper_layout(paper_data, tmp_path, name, split):
    module = SETS[name]
    expected_report = Report()
    from_paper = module.dataset(str(paper_data), validation_fraction=0.0)
    expected = list(from_paper.records(split, expected_report))

    recording = tmp_path / "replies.jsonl"
    with recording.open("w") as file:
        for record in expected:
            file.write(json.dumps({"id": record.id, "reply": record.provenance["reply"], "model": "PaLM-540B"}) + "\n")
    output = tmp_path / f"{name}.jsonl"
    report = extract(
        ExtractConfig(
            output=str(output),
            prompt=name,
            teachers=(RecordedConfig(str(recording), endpoint="completions"),),
            dataset=module.dataset(str(paper_data), teacher="none", validation_fraction=0.0),
            split=split,
        ),
        progress=Silent(),
    )

    got = list(jsonl.JsonLines({"all": str(output)})("all"))
    assert {teacher for record in got for teacher in record.rationale_teachers} == {"recorded"}
    assert [dataclasses.replace(record, rationale_teachers=()) for record in got] == expected
    assert report.written == len(expected)
    assert sum(report.unreadable.values()) == len(expected_report.failed) + len(expected_report.undecided)
    with (tmp_path / f"{name}.failures.jsonl").open() as file:
        failures = [json.loads(line) for line in file]
    problems = {(problem.id, problem.reason) for problem in (*expected_report.failed, *expected_report.undecided)}
    assert {(failure["id"], failure["reason"]) for failure in failures} == problems
    agreed = sum(
        record.llm_label is not None and from_paper.same_answer(record, record.llm_label) for record in expected
    )
    assert report.agreed == agreed
    summary = summarise(output)
    assert summary.origins[0].model == "PaLM-540B" and summary.origins[0].rows == len(expected)
