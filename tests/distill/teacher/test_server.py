"""What is sent to a server, in every form that servers want."""

import asyncio
import json

import pytest
from aiohttp import web

from distill.tasks.records import Record
from distill.teacher import (
    ExtractConfig,
    ExtractionStoppedError,
    Prices,
    Sampling,
    ServerConfig,
    TeacherStoppedError,
    extract,
)
from distill.teacher.clients.replies import Message, Request, TeacherSettingsError
from distill.teacher.job.extraction import open_teacher
from distill.teacher.job.progress import Silent
from tests.distill.teacher.stub_server import error, serving

GOOD = "It wants money back. So the answer is billing."
RECORDS = [Record(id="r0", input="I paid twice.", label="billing")]


async def good(call):
    return call.reply(*[GOOD] * call.body.get("n", 1))


def run(stub, tmp_path, records=RECORDS, config=None, **teacher):
    teacher = ServerConfig(**({"model": "stub", "base_url": stub.url} | teacher))
    settings = {"output": str(tmp_path / "out.jsonl"), "prompt": "template", "teachers": (teacher,), "records": records}
    return extract(ExtractConfig(**(settings | (config or {}))), progress=Silent())


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]


def test_a_chat_request(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    monkeypatch.setenv("GATEWAY", "gate-secret-456")
    with serving(good) as stub:
        run(
            stub,
            tmp_path,
            api_key_env="MY_KEY",
            headers_env={"X-Gateway": "GATEWAY"},
            sampling=Sampling(temperature=0.5, top_p=0.9, max_tokens=77, seed=5),
            extra={"reasoning_effort": "low"},
        )
    (call,) = stub.calls
    assert call.request.path == "/v1/chat/completions"
    assert call.request.headers["Authorization"] == "Bearer sk-secret-123"
    assert call.request.headers["X-Gateway"] == "gate-secret-456"
    assert len(call.request.headers["Idempotency-Key"]) == 64
    messages = call.body.pop("messages")
    assert call.body == {
        "model": "stub", "max_tokens": 77, "temperature": 0.5, "top_p": 0.9, "seed": 5, "stop": ["\nMessage:"],
        "reasoning_effort": "low",
    }  # fmt: skip
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 3, "user"]
    assert messages[-1]["content"] == "Message: I paid twice.\nThoughts:"
    (row,) = rows(tmp_path)
    assert row["provenance"]["teachers"][0]["model"] == "stub-as-served"


def test_a_completion_request(tmp_path):
    with serving(good) as stub:
        run(stub, tmp_path, endpoint="completions", sampling=Sampling(temperature=None), send_stop=False)
    (call,) = stub.calls
    assert call.request.path == "/v1/completions"
    assert call.body.pop("prompt").endswith("\n\nMessage: I paid twice.\nThoughts:")
    assert call.body == {"model": "stub", "max_tokens": 256}
    assert rows(tmp_path)[0]["rationales"] == ["It wants money back."]


def test_other_servers_other_names(tmp_path):
    with serving(good) as stub:
        run(stub, tmp_path, max_tokens_field="max_completion_tokens")
    assert stub.calls[0].body["max_completion_tokens"] == 256 and "max_tokens" not in stub.calls[0].body


@pytest.mark.parametrize("mode", ["json_schema", "json_object"])
def test_structured_output(tmp_path, mode):
    async def behaviour(call):
        return call.reply(json.dumps({"rationale": "It wants\n money back.", "label": "billing"}))

    with serving(behaviour) as stub:
        report = run(stub, tmp_path, structured=mode)
    wanted = stub.calls[0].body["response_format"]
    assert wanted["type"] == mode
    if mode == "json_schema":
        assert list(wanted["json_schema"]["schema"]["properties"]) == ["rationale", "label"], "reasons come first"
    assert "stop" not in stub.calls[0].body, "a stop string could cut the JSON"
    (row,) = rows(tmp_path)
    assert (row["rationales"], row["llm_label"], report.failures) == (["It wants money back."], "billing", {})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ('```json\n{"rationale": "Dogs bark.", "label": "bark"}\n```', "bark"),
        ('{"rationale": "Dogs bark.", "label": "(B) Bark."}', "bark"),
        ('{"rationale": "Dogs bark. So the answer is bark.", "label": "b", "more": 1}', "bark"),
        ('{"rationale": "Dogs bark.", "label": "miaow"}', None),
        ('{"rationale": "Dogs bark."}', None),
        ('Sure! Here it is:\n```json\n{"rationale": "Dogs bark.", "label": "bark"}\n```\nHope this helps!', "bark"),
        ('Sure: {"rationale": "Dogs {bark}.", "label": "bark"} Hope this helps {you}!', "bark"),
        ('<think>\nLet me see {x}\n</think>\n\n{"rationale": "Dogs bark.", "label": "bark"}', "bark"),
        ('{"rationale": ["Dogs are animals.", "They bark."], "label": ["bark"]}', "bark"),
        ('[{"rationale": "Dogs bark.", "label": "bark"}]', "bark"),
        ('"{\\"rationale\\": \\"Dogs bark.\\", \\"label\\": \\"bark\\"}"', "bark"),
        ('{"rationale": "Dogs\nbark.", "label": "bark"}', "bark"),
        ("{" * 50_000, None),
        ('{"rationale": 5, "label": "bark"}', None),
        ("Dogs bark. So the answer is (b) bark.", None),
        ("[" * 50_000, None),
    ],
)
def test_structured_replies_pass_through_the_same_parser(tmp_path, text, label):
    async def behaviour(call):
        return call.reply(text)

    records = [Record(id="r0", input="What do dogs do?\nAnswer Choices:\n(a) sing\n(b) bark", choices=("sing", "bark"))]
    with serving(behaviour) as stub:
        report = run(stub, tmp_path, records, {"prompt": "cqa"}, structured="json_schema")
    got = [row["llm_label"] for row in rows(tmp_path) if "llm_label" in row]
    assert got == ([label] if label else [])
    assert bool(report.unreadable) == (label is None)


@pytest.mark.parametrize("obeys", [True, False, "refuses", "bad request", "nested"])
def test_auto_asks_for_a_schema_where_the_server_obeys_it(tmp_path, obeys):
    async def behaviour(call):
        if "response_format" in call.body and obeys == "refuses":
            return error(400, "response_format is not supported")
        if "response_format" in call.body and obeys == "bad request":
            return error(400, "no")
        if "response_format" in call.body and obeys == "nested":
            return call.reply("[" * 50_000)
        if "response_format" in call.body and obeys:
            return call.reply(json.dumps({"rationale": "It wants money back.", "label": "billing"}))
        return call.reply(GOOD)

    with serving(behaviour) as stub:
        run(stub, tmp_path, structured="auto")
        run(stub, tmp_path, structured="auto")
    assert len(stub.calls) == 2 and ("response_format" in stub.calls[1].body) == (obeys is True)
    assert rows(tmp_path)[0]["rationales"] == ["It wants money back."]


@pytest.mark.parametrize("transient", [503, 429, "slow", "broken"])
def test_auto_learns_nothing_from_a_fault_that_passes(tmp_path, transient):
    """One server error would otherwise switch structured output off for as long as the store is used."""
    passing = True

    async def behaviour(call):
        if passing:
            if transient == "slow":
                await asyncio.sleep(0.6)
            elif transient == "broken":
                return web.Response(body=b"{", content_type="application/json")
            else:
                return error(transient, headers={"Retry-After": "0.1"})
        return call.reply(json.dumps({"rationale": "It wants money back.", "label": "billing"}))

    settings = {"structured": "auto", "attempts": 1, "attempt_s": 0.3, "patience_s": 1.0, "bad_replies": 0}
    with serving(behaviour) as stub:
        with pytest.raises(TeacherStoppedError, match=r"structured='off' or 'json_schema'|has refused every request"):
            run(stub, tmp_path, **settings)
        asked = len(stub.calls)
        passing = False
        run(stub, tmp_path, **(settings | {"attempt_s": 30.0}))
        assert all("response_format" in call.body for call in stub.calls)
        assert len(stub.calls) == asked + 2


def test_auto_retries_as_any_request(tmp_path):
    async def behaviour(call):
        if call.number < 2:
            return error(503)
        return call.reply(json.dumps({"rationale": "It wants money back.", "label": "billing"}))

    with serving(behaviour) as stub:
        run(stub, tmp_path, structured="auto")
    assert len(stub.calls) == 4 and "response_format" in stub.calls[3].body


@pytest.mark.parametrize("model", ["stub", "structured"])
def test_auto_passes_on_what_stops_a_job(tmp_path, model):
    async def behaviour(call):
        return error(404, "no such model")

    with serving(behaviour) as stub, pytest.raises(TeacherSettingsError, match=f"has no model {model!r}"):
        run(stub, tmp_path, structured="auto", model=model)


def test_a_server_without_structured_output_says_how_to_go_on(tmp_path):
    async def behaviour(call):
        return error(400, "unknown field response_format")

    with serving(behaviour) as stub, pytest.raises(ExtractionStoppedError, match="set structured='off'"):
        run(stub, tmp_path, structured="json_schema")


def test_samples_one_by_one_or_at_once(tmp_path):
    sampling = Sampling(temperature=0.7, seed=100)
    with serving(good) as stub:
        run(stub, tmp_path, RECORDS, {"samples": 3}, sampling=sampling)
    assert sorted(call.body["seed"] for call in stub.calls) == [100, 101, 102]
    with serving(good) as stub:
        report = run(
            stub,
            tmp_path,
            RECORDS,
            {"samples": 3, "store": str(tmp_path / "s")},
            sampling=sampling,
            samples_at_once=True,
        )
    assert [call.body["n"] for call in stub.calls] == [3]
    assert (rows(tmp_path)[0]["provenance"]["votes"], report.requests) == (3, 1)


def test_a_server_that_ignores_n_is_a_counted_failure(tmp_path):
    async def behaviour(call):
        return call.reply(GOOD)

    with serving(behaviour) as stub:
        report = run(
            stub,
            tmp_path,
            RECORDS,
            {"samples": 3},
            samples_at_once=True,
            sampling=Sampling(temperature=1.0),
            bad_replies=0,
        )
    assert report.failures == {"wrong schema": 1}


def test_token_limits_are_charged_and_corrected():
    async def go(stub):
        teacher = open_teacher(ServerConfig(model="stub", base_url=stub.url, tokens_per_minute=600_000))
        await teacher.ask(Request("r", "t", "stub", messages=(Message("user", "x" * 4000),)))
        wait = teacher.gate._tokens.wait(teacher.gate._clock())
        await teacher.close()
        return wait

    with serving(good) as stub:
        # About 1,000 tokens at 10,000 a second, not the 1,256 it was charged for at first, less the gate's slack.
        assert asyncio.run(go(stub)) < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "must name a model"),
        ({"endpoint": "talk"}, "endpoint must be one of .'chat', 'completions'.; got 'talk'"),
        ({"structured": "xml"}, "structured must be one of"),
        ({"structured": "auto", "endpoint": "completions"}, "needs endpoint='chat'"),
        ({"concurrency": 0}, "concurrency must be positive"),
        ({"attempts": 0}, "attempts must be positive"),
        ({"bad_replies": -1}, "bad_replies must be ≥ 0"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ServerConfig(**({"model": "m"} | changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sampling(temperature=3), "temperature must be in"),
        (lambda: Sampling(top_p=0), "top_p must be in"),
        (lambda: Sampling(max_tokens=0), "max_tokens must be ≥ 1"),
        (lambda: Prices(-1, 0), "Prices must be ≥ 0"),
    ],
)
def test_wrong_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
