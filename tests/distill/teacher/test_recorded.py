"""A file of recorded replies is refused with its line where a field has the wrong type."""

import json

import pytest
from aiohttp import web

from distill.tasks.records import Record, SourceError
from distill.teacher import ExtractConfig, ExtractionStoppedError, RecordedConfig, ServerConfig, extract
from distill.teacher.job.progress import Silent
from tests.distill.teacher.stub_server import error, serving
from tests_support import read_lines

GOOD = {"id": "a", "sample": 0, "reply": "because", "usage": [3, 4]}


@pytest.mark.parametrize(
    ("field", "value"),
    [("sample", value) for value in ("x", None, [], -1, 0.5, True)]
    + [("notes", value) for value in ("x", [1], ["a", "b"], None)]
    + [("usage", value) for value in ("ab", [1], [1, 2, 3], [1, None], [1, -2], {"a": 1}, 7)],
)
def test_a_field_of_the_wrong_type_is_refused_with_its_line(tmp_path, field, value):
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {field: value}) + "\n")
    with pytest.raises(SourceError, match=rf"replies\.jsonl:2: '{field}' must be"):
        RecordedConfig(str(path)).open()


def test_good_rows_are_read(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"usage": None, "sample": 1}) + "\n")
    assert RecordedConfig(str(path)).open().model.startswith("recorded:")


def test_a_recording_replays_failures_and_names_what_it_lacks(tmp_path):
    async def call_a_tool(call):
        if call.number == 1:
            tool = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            message = {"role": "assistant", "content": None, "tool_calls": [tool]}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response({"id": "x", "model": "m", "choices": [choice]})
        return call.reply("Why. So the answer is billing.")

    def run(name, teacher, **changes):
        records = [Record(f"r{n}", f"message {n}") for n in range(2)]
        settings = {"output": str(tmp_path / name), "prompt": "template", "records": records, "teachers": (teacher,)}
        return extract(ExtractConfig(**(settings | changes)), progress=Silent())

    recording = str(tmp_path / "recording.jsonl")
    with serving(call_a_tool) as stub:
        asked = run("a.jsonl", ServerConfig(model="m", base_url=stub.url, concurrency=1), record_to=recording)
    again = run("b.jsonl", RecordedConfig(recording, model="m"))
    assert again.unreadable == asked.unreadable == {"tool call": 1}
    missing = run("c.jsonl", RecordedConfig(recording))
    assert "give --model_of_recording, the --model that was recorded" in missing.examples["not recorded"]


def test_a_job_that_stops_writes_its_recording(tmp_path):
    async def then_refuse(call):
        return error(402, "no money") if call.number else call.reply("Why. So the answer is billing.")

    recording = tmp_path / "recording.jsonl"
    with serving(then_refuse) as stub, pytest.raises(ExtractionStoppedError):
        teacher = ServerConfig(model="m", base_url=stub.url, concurrency=1)
        records = [Record(f"r{n}", f"message {n}") for n in range(3)]
        output = str(tmp_path / "out.jsonl")
        config = ExtractConfig(output, "template", (teacher,), records=records, record_to=str(recording))
        extract(config, progress=Silent())
    assert len(read_lines(recording)) == 1
