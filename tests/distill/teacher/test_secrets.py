"""API keys never reach a log, a report, a cache or an output, whatever the server sends back."""

import json
import logging

import pytest
from aiohttp import web

from distill.tasks.records import Record
from distill.teacher import ExtractConfig, ExtractionStoppedError, ServerConfig, extract, record
from distill.teacher.clients.redaction import REMOVED, Redactor, public_url
from distill.teacher.clients.store import ReplyStore
from distill.teacher.job.extraction import open_teacher
from distill.teacher.job.progress import Silent
from tests.distill.teacher.stub_server import drop, error, serving

KEY = "sk-proj-Very+Secret/Key=0123456789"
GATEWAY = "gateway-password-987654"


def everything_below(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def run(stub, tmp_path, **teacher):
    config = ExtractConfig(
        output=str(tmp_path / "out.jsonl"),
        prompt="template",
        teachers=(
            ServerConfig(
                model="stub",
                base_url=stub.url,
                api_key_env="TEST_TEACHER_KEY",
                headers_env={"X-Gateway": "TEST_GATEWAY_KEY"},
                attempts=2,
                bad_replies=0,
                give_up_after=100,
                **teacher,
            ),
        ),
        records=[Record(id=f"r{n}", input=f"message {n}") for n in range(10)],
        keep_replies=True,
    )
    try:
        return extract(config, progress=Silent()), config
    except ExtractionStoppedError as stopped:
        return stopped, config


@pytest.fixture(autouse=True)
def keys(monkeypatch, caplog):
    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)
    monkeypatch.setenv("TEST_GATEWAY_KEY", GATEWAY)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpx", "httpcore2", "aiohttp", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)


async def echoing(call):
    """Sends back what it was sent, in every place where a server can put text."""
    sent = f"{call.request.headers['Authorization']} {call.request.headers['X-Gateway']}"
    number = call.number % 9
    if number == 0:
        return call.reply(f"{sent} wants money. So the answer is {KEY}.")
    if number == 1:
        return error(400, f"bad request with {sent}")
    if number == 2:
        return error(500, f"broken by {sent}", code=KEY)
    if number == 3:
        return web.Response(text=f"<html>{sent}", content_type="application/json")
    if number == 4:
        return web.json_response({"choices": sent})
    if number == 5:
        body = call.completion("x. So the answer is y.", finish=sent)
        return web.json_response(body | {"model": sent})
    if number == 6:
        return web.Response(body=sent.encode() + b"\xff", content_type="application/json")
    if number == 7:
        drop(call)
    return call.reply(f"no marker, but {sent}")


def test_whatever_a_server_echoes(tmp_path, caplog):
    with serving(echoing) as stub:
        outcome, config = run(stub, tmp_path, concurrency=1)
    assert stub.calls[0].request.headers["Authorization"] == f"Bearer {KEY}"
    with ReplyStore(config.store_path) as store:
        record(store, tmp_path / "recording.jsonl")
    written = everything_below(tmp_path).decode("utf-8", "replace")
    shown = f"{written}\n{caplog.text}\n{outcome}\n{outcome!r}\n{config!r}"
    assert REMOVED in written and "wants money" in written
    for secret in (KEY, GATEWAY, KEY.replace("/", "\\/"), json.dumps(KEY)[1:-1]):
        assert secret not in shown
    assert "TEST_TEACHER_KEY" in repr(config)


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_errors_that_stop_the_job(tmp_path, caplog, status):
    async def behaviour(call):
        sent = call.request.headers["Authorization"]
        return error(status, f"Incorrect API key provided: {sent}", code="insufficient_quota")

    with serving(behaviour) as stub:
        outcome, _ = run(stub, tmp_path)
    assert isinstance(outcome, ExtractionStoppedError) and REMOVED in str(outcome)
    shown = f"{everything_below(tmp_path).decode('utf-8', 'replace')}\n{caplog.text}\n{outcome!r}{outcome.report!r}"
    assert KEY not in shown and GATEWAY not in shown
    assert outcome.__cause__ is None


@pytest.mark.parametrize(
    "url", [f"http://user:{GATEWAY}@host/v1", f"http://host/v1?key={GATEWAY}", f"host/{GATEWAY}?{GATEWAY}"]
)
def test_secrets_in_urls_are_refused_without_being_shown(url, monkeypatch):
    with pytest.raises(ValueError, match="base_url") as refused:
        ServerConfig(model="m", base_url=url)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(ValueError, match="base_url"):
        open_teacher(ServerConfig(model="m"))
    assert not url.startswith("http") or GATEWAY not in str(refused.value)


def test_redaction():
    redact = Redactor([KEY, GATEWAY, "x", ""])
    assert redact(f"a {KEY}{GATEWAY} x") == f"a {REMOVED}{REMOVED} x"
    assert KEY not in repr(redact)
    assert Redactor(["abcd", "abcdef"])("abcdef") == REMOVED, "the longer one first"
    assert public_url("http://u:p@[::1]:8000/v1?key=1#x") == "http://[::1]:8000/v1"
