"""Every attempt is paid for: the cost cap holds whatever the server does, and a restart does not get the money again."""

import asyncio
import json
import re

import pytest
from aiohttp import web

from distill.tasks.records import Record
from distill.teacher import ExtractConfig, ExtractionStoppedError, Prices, Sampling, ServerConfig, extract
from distill.teacher.clients.cost import Estimate
from distill.teacher.job.progress import Silent, State
from tests.distill.teacher.stub_server import drop, error, serving

GOOD = "It wants money back. So the answer is billing."
A_TOKEN = Prices(prompt=0.0, completion=1_000_000.0)  # so that a reply costs as much as it has tokens


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr("distill.teacher.clients.server._SHORTEST_PAUSE_S", 0.01)


class Told(Silent):
    """Passes every state on in words."""

    def __init__(self, tell):
        self.tell = tell

    def __call__(self, state):
        self.tell(str(state))


def run(stub, tmp_path, number=10, **changes):
    job = {"cost_cap": changes.pop("cost_cap", None)}
    told = changes.pop("progress", None)
    teacher = {
        "model": "m", "base_url": stub.url, "prices": A_TOKEN, "concurrency": 1, "sampling": Sampling(max_tokens=50),
    } | changes  # fmt: skip
    config = ExtractConfig(
        output=str(tmp_path / "out.jsonl"),
        prompt="template",
        teachers=(ServerConfig(**teacher),),
        records=[Record(id=f"r{n}", input=f"message number {n}", label="billing") for n in range(number)],
        **job,
    )
    return extract(config, progress=Told(told) if told else Silent())


def body(text, *, tokens=50, **more):
    usage = {"prompt_tokens": 100, "completion_tokens": tokens, "total_tokens": 100 + tokens}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "x", "model": "m", "choices": [choice], "usage": usage} | more


async def blank(call):
    return web.json_response(body(""))


async def wrong_shape(call):
    return web.json_response(body("", choices=[{"delta": {}}]))


async def broken(call):
    return web.Response(text='{"choices": [{"mess', content_type="application/json")


async def dropped(call):
    drop(call)
    return web.Response()


async def failing(call):
    return error(500)


async def without_usage(call):
    return web.json_response(body(GOOD, usage=None))


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    ("behaviour", "changes"),
    [
        (blank, {}),
        (blank, {"sampling": Sampling(temperature=1.0, max_tokens=50)}),
        (wrong_shape, {}),
        (broken, {}),
        (dropped, {}),
        (failing, {}),
        (without_usage, {}),
    ],
    ids=["blank", "blank-at-random", "wrong-shape", "broken", "dropped", "failing", "no-usage"],
)
def test_no_more_attempts_are_made_than_the_cap_pays_for(tmp_path, behaviour, changes, concurrency):
    with serving(behaviour) as stub, pytest.raises(ExtractionStoppedError, match="the cost cap is reached"):
        run(stub, tmp_path, cost_cap=160.0, concurrency=concurrency, **changes)
    assert len(stub.calls) == 3, "three answers of 50 fit into 160"
    with serving(behaviour) as stub, pytest.raises(ExtractionStoppedError, match="the cost cap is reached"):
        run(stub, tmp_path, cost_cap=160.0, concurrency=concurrency, **changes)
    assert len(stub.calls) == 0, "a restart does not get the money again"


def test_refusals_and_bad_requests_cost_nothing(tmp_path):
    async def behaviour(call):
        if call.number < 4:
            return error(429, headers={"Retry-After-Ms": "10"})
        return web.json_response(body(GOOD)) if call.number % 2 else error(400, "too long")

    with serving(behaviour) as stub:
        report = run(stub, tmp_path, number=5, cost_cap=160.0)
    assert (report.finished, report.failed, report.cost) == (2, 3, 100.0)


def test_tokens_of_discarded_replies_are_in_the_report(tmp_path):
    async def behaviour(call):
        return web.json_response(body("" if call.number < 2 else GOOD))

    with serving(behaviour) as stub:
        report = run(stub, tmp_path, number=1, sampling=Sampling(temperature=1.0, max_tokens=50))
    assert len(stub.calls) == 3
    assert (report.usage["m"].prompt_tokens, report.usage["m"].completion_tokens) == (300, 150)
    assert (report.cost, report.unknown_usage, report.finished) == (150.0, 0, 1)
    assert json.loads((tmp_path / "out.report.json").read_text())["cost"] == 150.0


@pytest.mark.parametrize("prices", [A_TOKEN, None], ids=["prices", "no-prices"])
def test_attempts_of_unknown_usage_are_told_with_their_possible_cost(tmp_path, prices):
    """One reply has a usage and one has none; before them, an attempt is dropped. The next run says the same."""

    async def behaviour(call):
        if call.number == 0:
            return await dropped(call)
        return web.json_response(body(GOOD, tokens=10)) if call.number == 1 else await without_usage(call)

    states = []
    with serving(behaviour) as stub:
        first = run(stub, tmp_path, number=2, prices=prices, progress=states.append)
    with serving(behaviour) as stub:
        again = run(stub, tmp_path, number=2, prices=prices)
    assert (first.finished, again.cached, len(stub.calls)) == (2, 2, 0)
    for report in (first, again):
        assert (report.cost, report.unknown_usage, report.perhaps_cost) == (
            (10.0, 2, 100.0) if prices else (None, 2, None)
        )
        spent = ", cost 10.00; 2 further attempts had an unknown usage, and may have cost up to 100.00 more\n"
        words = spent if prices else "; 2 further attempts had an unknown usage\n"
        assert f"all attempts, earlier runs included: 100 tokens read, 10 written{words}" in f"{report}\n"
    written = json.loads((tmp_path / "out.report.json").read_text())
    assert (written["unknown_usage"], written["perhaps_cost"]) == (2, again.perhaps_cost)
    shown = "cost 10.00 (and perhaps 100.00 for attempts of unknown usage)"
    assert (shown in states[-1]) == bool(prices)


def test_small_costs_are_not_rounded_to_nothing():
    assert str(State(total=1, cost=0.00071234)).endswith("cost 0.000712")
    small = Estimate(1, 0, 10, 10, 20, cost=0.00042, most_cost=0.0009)
    assert "about 0.000420, at most 0.000900, in the currency" in str(small)


def test_money_that_comes_free_is_spent(tmp_path):
    """Eight at once reserve 50 each, but cost 10: waiting for the first replies lets all requests go."""

    async def behaviour(call):
        await asyncio.sleep(0.02)
        return web.json_response(body(GOOD, tokens=10)) if call.number % 3 else error(429)

    with serving(behaviour) as stub:
        report = run(stub, tmp_path, number=8, cost_cap=120.0, concurrency=8)
    assert (report.finished, report.cost) == (8, 80.0)


@pytest.mark.parametrize(
    ("message", "finish", "temperature", "calls"),
    [
        ({"content": None, "reasoning_content": "It asks"}, "length", 0.0, 1),
        ({"content": None, "reasoning_content": "It asks"}, "length", 1.0, 1),
        ({"content": "", "reasoning": "It asks"}, "length", 0.0, 1),
        ({"content": None}, "content_filter", 0.0, 1),
        ({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, "tool_calls", 0.0, 1),
        ({"content": ""}, "stop", 0.0, 1),
        ({"content": ""}, "stop", 1.0, 3),
        ({"content": ""}, "stop", None, 3),
    ],
)
def test_what_would_end_the_same_way_is_not_asked_again(tmp_path, message, finish, temperature, calls):
    async def behaviour(call):
        choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish}
        return web.json_response(body("", choices=[choice]))

    with serving(behaviour) as stub:
        report = run(stub, tmp_path, number=1, sampling=Sampling(temperature=temperature, max_tokens=50))
    assert len(stub.calls) == calls
    assert report.usage["m"].completion_tokens == 50 * calls
    assert sum(report.unreadable.values()) == 1


def test_a_reached_cap_names_a_larger_one_and_a_server_that_ignores_the_limit_is_warned_of(tmp_path, caplog):
    async def long(call):
        return web.json_response(body(GOOD, tokens=5000))

    with serving(long) as stub, pytest.raises(ExtractionStoppedError) as stopped:
        run(stub, tmp_path, cost_cap=160.0)
    assert len(stub.calls) == 2, "one at the server, and one that had its share of the cap"
    words = "10,000.00 of 160.00 is spent, the next request may cost 50.00 and needs a cap of at least 10,050.00"
    assert words in str(stopped.value) and "again with a larger cap (--cost_cap) to send the other 8" in str(
        stopped.value
    )
    warned = [record.message for record in caplog.records if "ignores this limit" in record.message]
    assert len(warned) == 1 and "a reply has 5,000 tokens by the server's count, and at most 50 were" in warned[0]


def test_only_requests_that_were_sent_are_shown_as_running(tmp_path):
    told: list[str] = []

    async def slow(call):
        await asyncio.sleep(0.02)
        return web.json_response(body(GOOD))

    with serving(slow) as stub:
        run(stub, tmp_path, number=12, concurrency=2, progress=told.append)
    running = [int(found[1]) for found in (re.search(r"(\d+) running", line) for line in told) if found]
    assert running and max(running) <= 2
