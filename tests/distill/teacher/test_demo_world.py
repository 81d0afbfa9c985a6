"""The demo task through the whole phase, with its programmatic teacher's words as recorded replies."""

import dataclasses
import json

from distill.tasks import demo_world, jsonl
from distill.teacher import ExtractConfig, RecordedConfig, extract
from distill.teacher.inspect import InspectConfig, inspect
from distill.teacher.job.progress import Silent
from distill.teacher.prompts import templates


def test_recorded_replies_give_the_demos_own_rows(tmp_path):
    dataset = demo_world.dataset(train_rows=120)
    wanted = list(dataset.records("train"))
    recording = tmp_path / "replies.jsonl"
    with recording.open("w") as file:
        for record in wanted:
            reply = f" {record.rationales[0]} So the answer is {record.llm_label}.\n\nQ: what can"
            file.write(json.dumps({"id": record.id, "reply": reply}) + "\n")
    output = tmp_path / "demo.jsonl"
    report = extract(
        ExtractConfig(
            output=str(output), prompt="demo_world", teachers=(RecordedConfig(str(recording)),), dataset=dataset
        ),
        progress=Silent(),
    )
    got = list(jsonl.JsonLines({"all": str(output)})("all"))
    assert [dataclasses.replace(record, rationale_teachers=()) for record in got] == wanted
    assert (report.agreed, report.failures, report.noticed.get("the input is a worked example of the prompt")) == (
        120, {}, None,
    )  # fmt: skip
    looked_at = inspect(InspectConfig(str(tmp_path / "demo.html"), inputs=str(output)))
    assert looked_at.statistics.agreed == looked_at.statistics.rows == 120


def test_the_worked_examples_are_true_and_speak_of_familiar_nouns_only():
    world = demo_world.WORLD
    familiar = {noun for nouns in world.familiar.values() for noun in nouns}
    for example in templates.load("demo_world").examples:
        verbs, choices = example.input.removeprefix("what can ").split(" ? ")
        first, second = verbs.split(" and ")
        nouns = tuple(choices.split())
        assert set(nouns) <= familiar
        (kind,) = set(world.can[first]) & set(world.can[second])
        question = demo_world.Question((first, second), kind, nouns, tuple(map(world.kind_of, nouns)))
        assert (question.text, question.reasons, question.answer) == (example.input, example.rationale, example.label)
