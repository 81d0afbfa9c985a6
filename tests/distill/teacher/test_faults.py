"""A real HTTP server misbehaves in every way we know; each ends in a retry, a counted failure, or a clear stop."""

import asyncio
import functools
import json
import time

import pytest
from aiohttp import web

from distill.tasks import sources
from distill.tasks.records import Record
from distill.teacher import ExtractConfig, ExtractionStoppedError, Prices, ServerConfig, TeacherStoppedError, extract
from distill.teacher.clients import transport
from distill.teacher.clients.replies import Message, Request, RequestFailedError
from distill.teacher.job.extraction import open_teacher
from distill.teacher.job.progress import Silent
from tests.distill.teacher.stub_server import drop, error, serving

GOOD = "It wants money back. So the answer is billing."
RECORDS = [Record(id=f"r{n}", input=f"message number {n}", label="billing") for n in range(12)]
QUICK = {"attempts": 4, "attempt_s": 5.0, "concurrency": 4, "bad_replies": 1, "patience_s": 3.0}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Pauses between attempts start at half a second; tests have less time."""
    monkeypatch.setattr("distill.teacher.clients.server._SHORTEST_PAUSE_S", 0.02)


def ask(config, number=1):
    """Asks ``number`` questions one after the other; returns replies or failures."""

    async def run():
        teacher = open_teacher(config)
        outcomes = []
        try:
            for n in range(number):
                request = Request(f"r{n}", "t", config.model, messages=(Message("user", f"message number {n}"),))
                try:
                    outcomes.append(await teacher.ask(request))
                except RequestFailedError as failed:
                    outcomes.append(failed.failure)
            return outcomes
        finally:
            await teacher.close()

    return asyncio.run(run())


def config_for(stub, **changes):
    return ServerConfig(**({"model": "stub", "base_url": stub.url} | QUICK | changes))


def job(stub, tmp_path, records=RECORDS, **changes):
    teacher_changes = changes.pop("teacher", {})
    return ExtractConfig(
        output=str(tmp_path / "out.jsonl"),
        prompt="template",
        teachers=(config_for(stub, **teacher_changes),),
        records=records,
        **changes,
    )


def run(config):
    return extract(config, progress=Silent())


def lines(path):
    return [row for _, row in sources.read_rows(path, "test")]


def first_then_good(*reactions):
    """Reacts to the first calls as configured, then normally."""

    async def behaviour(call):
        if call.number < len(reactions):
            reaction = reactions[call.number]
            return await reaction(call) if callable(reaction) else reaction
        return call.reply(GOOD)

    return behaviour


async def dropped(call):
    drop(call)
    return web.Response()


async def cut_short(call):
    """Announces a whole body and sends half of it."""
    whole = json.dumps(call.completion(GOOD)).encode()
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(whole))})
    await response.prepare(call.request)
    await response.write(whole[: len(whole) // 2])
    drop(call)
    return response


async def half_json(call):
    whole = json.dumps(call.completion(GOOD))
    return web.Response(text=whole[: len(whole) // 2], content_type="application/json")


async def not_utf8(call):
    body = json.dumps(call.completion("Caf\u00e9")).replace("\\u00e9", "\xe9").encode("latin-1")
    return web.Response(body=body, content_type="application/json")


async def html(call):
    return web.Response(text="<html>upstream said no</html>", content_type="text/html")


async def wrong_schema(call):
    return web.json_response({"answer": 42})


async def no_text(call):
    return web.json_response({"choices": [{"message": {"role": "assistant", "content": None}}]})


async def empty(call):
    return call.reply("  \n")


async def too_slow(call):
    await asyncio.sleep(1.0)
    return call.reply(GOOD)


async def trickle(call):
    """Sends a byte now and then: never silent for long, never done."""
    response = web.StreamResponse()
    await response.prepare(call.request)
    for _ in range(30):
        await response.write(b" ")
        await asyncio.sleep(0.05)
    return response


@pytest.mark.parametrize(
    "reaction",
    [
        lambda call: _as(error(429)),
        lambda call: _as(error(429, headers={"Retry-After": "0.1"})),
        lambda call: _as(error(429, headers={"Retry-After-Ms": "100"})),
        lambda call: _as(error(503, headers={"Retry-After": "0.1"})),
        lambda call: _as(error(500)),
        lambda call: _as(error(502)),
        lambda call: _as(error(408)),
        dropped,
        cut_short,
        half_json,
        not_utf8,
        html,
        wrong_schema,
    ],
    ids=[
        "429", "429-retry-after", "429-ms", "503-retry-after", "500", "502", "408", "dropped", "cut-short", "half-json",
        "not-utf8", "html", "wrong-schema",
    ],
)  # fmt: skip
@pytest.mark.parametrize("fast", [True, False], ids=["aiohttp", "httpx"])
def test_a_passing_fault_is_tried_again(reaction, fast, monkeypatch):
    monkeypatch.setattr(transport, "gated_client", functools.partial(transport.gated_client, fast=fast))
    with serving(first_then_good(reaction)) as stub:
        (reply,) = ask(config_for(stub))
    assert reply.candidates[0].text == GOOD
    assert len(stub.calls) == 2


async def _as(response):
    return response


@pytest.mark.parametrize("fast", [True, False], ids=["aiohttp", "httpx"])
@pytest.mark.parametrize("reaction", [too_slow, trickle], ids=["silent", "trickling"])
def test_an_attempt_has_a_deadline(reaction, fast, monkeypatch, caplog):
    monkeypatch.setattr(transport, "gated_client", functools.partial(transport.gated_client, fast=fast))
    with serving(first_then_good(reaction)) as stub:
        started = time.monotonic()
        (reply,) = ask(config_for(stub, attempt_s=0.3))
    assert reply.candidates[0].text == GOOD
    assert 0.3 <= time.monotonic() - started < 1.5
    assert not [record for record in caplog.records if record.name == "asyncio"], "no callback raised an exception"


@pytest.mark.parametrize(
    ("reaction", "reason"),
    [
        (half_json, "broken JSON"),
        (not_utf8, "not UTF-8"),
        (html, "broken JSON"),
        (wrong_schema, "wrong schema"),
        (dropped, "no connection"),
        (cut_short, "no connection"),
        (lambda call: _as(error(500)), "server error"),
        (lambda call: _as(error(400, "context length exceeded")), "bad request"),
        (lambda call: _as(error(413, "too large")), "bad request"),
        (lambda call: _as(web.Response(body=b"[" * 100_000, content_type="application/json")), "broken JSON"),
    ],
)
def test_a_lasting_fault_is_a_counted_failure_with_what_came(reaction, reason):
    async def behaviour(call):
        return await reaction(call)

    with serving(behaviour) as stub:
        (failure,) = ask(config_for(stub, attempts=2))
    assert failure.reason == reason
    assert failure.detail
    if reason in ("broken JSON", "not UTF-8", "wrong schema"):
        assert failure.raw


def test_a_bad_request_is_not_repeated():
    with serving(first_then_good(error(400, "context length exceeded"))) as stub:
        (failure,) = ask(config_for(stub))
    assert "context length exceeded" in failure.detail and "400" in failure.detail
    assert len(stub.calls) == 1


def test_retry_after_holds_everybody_back():
    refused = []

    async def behaviour(call):
        if not refused:
            refused.append(call.time)
            return error(429, headers={"Retry-After": "0.5"})
        return call.reply(GOOD)

    async def go(stub):
        teacher = open_teacher(config_for(stub))
        asked = [teacher.ask(Request(f"r{n}", "t", "stub", messages=(Message("user", f"{n}"),))) for n in range(12)]
        await asyncio.gather(*asked)
        await teacher.close()

    with serving(behaviour) as stub:
        asyncio.run(go(stub))
    late = [call.time - refused[0] for call in stub.calls if call.time > refused[0] + 0.1]
    assert len(stub.calls) == 13
    assert len(late) >= 9 and min(late) >= 0.45


def test_a_server_that_always_refuses_ends_in_a_clear_stop(tmp_path):
    async def behaviour(call):
        return error(429, "slow down", headers={"Retry-After": "0.1"})

    with (
        serving(behaviour) as stub,
        pytest.raises(ExtractionStoppedError, match=r"(?s)refused every request.*run the same command again"),
    ):
        run(job(stub, tmp_path, teacher={"patience_s": 0.4, "attempts": 2}))


def test_a_refusal_for_longer_than_the_rest_of_the_patience_stops_at_once(tmp_path):
    async def behaviour(call):
        return error(429, "slow down", headers={"Retry-After": "2"})

    with (
        serving(behaviour) as stub,
        pytest.raises(ExtractionStoppedError, match=r"for \d s, of patience_s=3, and its next pause of 2 s is longer"),
    ):
        run(job(stub, tmp_path, teacher={"patience_s": 3.0}))


async def silent(call):
    await asyncio.sleep(60)
    return call.reply(GOOD)


async def headers_then_nothing(call):
    response = web.StreamResponse()
    await response.prepare(call.request)
    await asyncio.sleep(60)
    return response


async def endless(call):
    response = web.StreamResponse()
    await response.prepare(call.request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def busy(call):
    return error(429, "slow down")


async def out_of_service(call):
    return error(503, headers={"Retry-After": "0.3"})


async def failing(call):
    return error(500)


@pytest.mark.parametrize(
    "behaviour", [silent, headers_then_nothing, endless, busy, out_of_service, failing, half_json, wrong_schema, dropped],
    ids=lambda behaviour: behaviour.__name__,
)  # fmt: skip
def test_patience_bounds_the_wait_whatever_the_server_does(tmp_path, behaviour):
    """No limit on attempts and failures, and a minute per attempt: only ``patience_s`` ends these jobs."""
    teacher = {"patience_s": 0.8, "attempt_s": 60.0, "attempts": 10**6, "give_up_after": 10**6, "bad_replies": 10**6}
    with serving(behaviour) as stub, pytest.raises(ExtractionStoppedError, match=r"of patience_s=0\.8"):
        started = time.monotonic()
        run(job(stub, tmp_path, teacher=teacher))
    assert time.monotonic() - started < 5
    assert not (tmp_path / "out.jsonl").exists()


def test_patience_is_used_up_before_the_job_stops(tmp_path, monkeypatch):
    """Also where the next pause is longer than what is left of it."""
    monkeypatch.setattr("distill.teacher.clients.server._SHORTEST_PAUSE_S", 5.0)
    with (
        serving(failing) as stub,
        pytest.raises(ExtractionStoppedError, match=r"for \d s, of patience_s=0\.8 \(HTTP 500"),
    ):
        started = time.monotonic()
        run(job(stub, tmp_path, teacher={"patience_s": 0.8}))
    assert 0.8 <= time.monotonic() - started < 3


def test_a_pause_longer_than_patience_does_not_stop_a_job_whose_other_requests_are_answered(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.teacher.clients.server._SHORTEST_PAUSE_S", 5.0)

    async def behaviour(call):
        await asyncio.sleep(0.4 if call.number else 0.0)
        return call.reply(GOOD) if call.number else error(500)

    with serving(behaviour) as stub:
        report = run(job(stub, tmp_path, RECORDS[:2], teacher={"patience_s": 0.8, "concurrency": 2}))
    assert report.finished == 2


def test_a_failure_names_the_attempts_that_were_made():
    with serving(silent) as stub:
        (failure,) = ask(config_for(stub, attempts=2, attempt_s=0.1))
        with pytest.raises(TeacherStoppedError, match=r"\(no reply within 0\.1 s\)"):
            ask(config_for(stub, attempts=50, attempt_s=0.1, patience_s=0.3))
    assert (failure.reason, failure.detail) == ("timeout", "no reply within 0.1 s, in 2 attempts")


def test_a_reply_makes_the_patience_whole_again(tmp_path):
    """Every second request fails for a while; the job takes longer than its patience, and ends well."""

    async def behaviour(call):
        await asyncio.sleep(0.1)
        return error(500) if call.number % 2 else call.reply(GOOD)

    with serving(behaviour) as stub:
        started = time.monotonic()
        report = run(job(stub, tmp_path, teacher={"patience_s": 1.5, "concurrency": 1, "attempts": 9}))
    assert report.finished == len(RECORDS) and time.monotonic() - started > 1.5


@pytest.mark.parametrize(
    ("response", "words"),
    [
        ((401, "bad key"), "does not accept the key in OPENAI_API_KEY"),
        ((403, "not you"), "does not accept the key"),
        ((404, "no such model"), "has no model 'stub'"),
        ((402, "pay first"), "requires payment"),
    ],
)
def test_hopeless_answers_stop_the_job_at_once(tmp_path, response, words):
    async def behaviour(call):
        return error(*response)

    with serving(behaviour) as stub, pytest.raises(ExtractionStoppedError, match=words):
        run(job(stub, tmp_path))
    assert len(stub.calls) < len(RECORDS)


def test_an_empty_account_stops_the_job(tmp_path):
    async def behaviour(call):
        return error(429, "quota", headers={"x-should-retry": "false"}, code="insufficient_quota")

    with serving(behaviour) as stub, pytest.raises(ExtractionStoppedError, match="quota is used up"):
        run(job(stub, tmp_path))


def test_a_wait_longer_than_our_patience_is_not_waited_for(tmp_path):
    async def behaviour(call):
        return error(429, headers={"Retry-After": "86400"})

    with serving(behaviour) as stub, pytest.raises(ExtractionStoppedError, match="requests a pause of 86400 s"):
        started = time.monotonic()
        run(job(stub, tmp_path))
    assert time.monotonic() - started < 5


def test_a_server_that_dies_halfway_stops_the_job_and_the_next_run_goes_on(tmp_path):
    records = [Record(id=f"r{n}", input=f"message {n}") for n in range(60)]

    async def mortal(call):
        if call.number >= 25:
            drop(call)
        return call.reply(GOOD)

    with serving(mortal) as stub, pytest.raises(ExtractionStoppedError, match="failed consecutively") as stopped:
        run(job(stub, tmp_path, records, teacher={"attempts": 1, "give_up_after": 8}))
    answered = stopped.value.report.finished
    assert 20 <= answered <= 25
    assert not (tmp_path / "out.jsonl").exists()

    async def healthy(call):
        return call.reply(GOOD)

    with serving(healthy) as stub:
        report = run(job(stub, tmp_path, records))
    assert (report.cached, report.finished, report.written) == (answered, 60 - answered, 60)
    assert len(stub.calls) == 60 - answered


def test_no_server_at_all_is_a_clear_stop(tmp_path):
    config = ExtractConfig(
        output=str(tmp_path / "out.jsonl"),
        prompt="template",
        teachers=(ServerConfig(model="stub", base_url="http://127.0.0.1:9/v1", give_up_after=3, attempts=1),),
        records=RECORDS,
    )
    with pytest.raises(ExtractionStoppedError, match="no connection"):
        run(config)


def test_without_key_and_url_the_job_does_not_start(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(TeacherStoppedError, match="OPENAI_API_KEY holds no API key"):
        open_teacher(ServerConfig(model="m"))
    with pytest.raises(TeacherStoppedError, match="header api-key needs the environment variable NOT_SET"):
        open_teacher(ServerConfig(model="m", base_url="http://127.0.0.1:9/v1", headers_env={"api-key": "NOT_SET"}))


def test_a_megabyte_is_read_and_counted_but_not_parsed(tmp_path):
    async def behaviour(call):
        return call.reply("word " * 200_000 if call.question.endswith("number 3\nThoughts:") else GOOD)

    with serving(behaviour) as stub:
        report = run(job(stub, tmp_path))
    assert report.unreadable == {"reply too long": 1}
    (failure,) = lines(tmp_path / "out.failures.jsonl")
    assert failure["id"] == "r3" and "1,000,000 characters" in failure["detail"] and len(failure["raw"]) < 5_000


def test_a_reply_beyond_the_limit_is_not_even_read():
    async def behaviour(call):
        return call.reply("word " * 200_000)

    with serving(behaviour) as stub:
        (failure,) = ask(config_for(stub, largest_bytes=100_000))
    assert failure.reason == "reply too large" and "100,000 bytes" in failure.detail
    assert len(stub.calls) == 1


def test_what_a_teacher_may_say_ends_in_a_record_or_a_counted_failure(tmp_path):
    says = {
        0: GOOD,
        1: GOOD + "\n\nMessage: Where is my parcel?\nThoughts: So the answer is sales.",
        2: "I'm sorry, but I can't help with that.",
        3: "It could be anything.",
        4: "So the answer is billing.",
        5: "They want money. So the answer is",
        6: "",
        7: "half a sur\ud83drogate and a nul \0 here. So the answer is billing.",
        8: "Thoughts: " + GOOD,
        9: "line\u2028ends\u0085of\x1call kinds. So the answer is billing.",
        10: "x" + "\n \n" * 5000 + "y. So the answer is billing.",
        11: "cut in the mid",
    }

    async def behaviour(call):
        number = int(call.question.split("number ")[1].split("\n")[0])
        if number == 2:
            body = call.completion("")
            body["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": says[2]}
            return web.json_response(body)
        return call.reply(says[number], finish="length" if number == 11 else "stop")

    with serving(behaviour) as stub:
        report = run(job(stub, tmp_path))
    assert not report.failures and report.unreadable == {
        "no answer marker": 1, "refused": 1, "no rationale before the marker": 1,
        "the reply breaks off within its answer": 1, "empty reply": 1, "cut off": 1,
    }  # fmt: skip
    rows = lines(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == [record.id for record in RECORDS], "no row is lost"
    assert rows[0]["rationales"] == rows[1]["rationales"] == rows[8]["rationales"] == ["It wants money back."]
    assert [bool(row["rationales"]) for row in rows] == [n in (0, 1, 7, 8, 9, 10) for n in range(12)]
    assert rows[7]["rationales"] == ["half a sur?rogate and a nul  here."]
    assert rows[9]["rationales"] == ["line\u2028ends\u0085of\x1call kinds."]
    assert (
        (tmp_path / "out.jsonl").read_text().count("\n") == 12 == len((tmp_path / "out.jsonl").read_text().splitlines())
    )


def test_concurrency_is_bounded_and_connections_are_used_again():
    ports = set()

    async def behaviour(call):
        ports.add(call.request.transport.get_extra_info("peername"))
        await asyncio.sleep(0.02)
        return call.reply(GOOD)

    async def go(stub):
        teacher = open_teacher(config_for(stub, concurrency=5))
        asked = [teacher.ask(Request(f"r{n}", "t", "stub", messages=(Message("user", f"{n}"),))) for n in range(60)]
        await asyncio.gather(*asked)
        await teacher.close()

    with serving(behaviour) as stub:
        asyncio.run(go(stub))
    assert stub.most_at_once == 5
    assert len(ports) <= 5


def test_a_cost_cap_is_never_passed(tmp_path):
    async def behaviour(call):
        await asyncio.sleep(0.01)
        return call.reply(GOOD)

    records = [Record(id=f"r{n}", input=f"message {n}") for n in range(200)]
    teacher = {"prices": Prices(prompt=10.0, completion=30.0)}
    with serving(behaviour) as stub, pytest.raises(ExtractionStoppedError, match="the cost cap is reached") as stopped:
        run(job(stub, tmp_path, records, teacher=teacher, cost_cap=0.2))
    report = stopped.value.report
    assert 0.1 < report.cost <= 0.2
    assert report.finished == len(stub.calls) < 200

    with serving(behaviour) as stub, pytest.raises(ExtractionStoppedError, match="the cost cap is reached"):
        run(job(stub, tmp_path, records, teacher=teacher, cost_cap=0.2))
    assert len(stub.calls) <= 1, "a restart does not get the money again"


def test_requests_that_are_bad_by_themselves_do_not_stop_a_job_that_works(tmp_path):
    async def behaviour(call):
        number = int(call.question.split("number ")[1].split("\n")[0])
        return call.reply(GOOD) if number == 0 else error(400, "too long")

    teacher = {"give_up_after": 5, "concurrency": 1}
    with serving(behaviour) as stub:
        report = run(job(stub, tmp_path, teacher=teacher))
    assert report.failures == {"bad request": 11} and report.finished == 1

    async def all_bad(call):
        return error(400, "unknown field temperature")

    with (
        serving(all_bad) as stub,
        pytest.raises(ExtractionStoppedError, match=r"5 requests .* failed consecutively.*unknown field"),
    ):
        run(job(stub, tmp_path, teacher=teacher | {"model": "other"}))
