"""The gate: order, bounds, limits per minute, and what it does when the server says "too many"."""

import asyncio
import time

import pytest

from distill.teacher.clients.gate import Gate, GateClosedError, Pace
from distill.teacher.clients.transport import retry_after


@pytest.mark.parametrize("limit", [60, 600, 30_000])
def test_no_minute_sees_more_than_the_limit(limit):
    pace, now, times = Pace(limit), 0.0, []
    while now < 130:
        now += pace.wait(now)
        pace.charge(now, 1)
        times.append(now)
    first = 0
    for last, instant in enumerate(times):
        while times[first] <= instant - 60:
            first += 1
        assert last - first + 1 <= limit + 1
    assert len(times) >= 130 / 60 * limit * 0.99


def test_large_amounts_make_the_next_wait_and_corrections_give_back():
    pace = Pace(60_000)  # a thousand a second
    pace.charge(10.0, 5_000)
    assert pace.wait(10.0) == pytest.approx(5, rel=0.05)
    pace.correct(-4_000)
    assert pace.wait(10.0) == pytest.approx(1, rel=0.15)
    assert Pace(None).wait(0.0) == 0
    with pytest.raises(ValueError, match="must be positive; got 0"):
        Pace(0)


def test_at_most_so_many_and_in_order():
    async def run():
        gate, order = Gate(3), []

        async def one(n):
            await gate.enter()
            order.append(n)
            await asyncio.sleep(0.001)
            gate.leave()

        await asyncio.gather(*(one(n) for n in range(20)))
        return gate, order

    gate, order = asyncio.run(run())
    assert gate.most_active == 3 and gate.active == 0 and order == sorted(order)


def test_refusals_halve_once_per_round_and_successes_grow():
    async def run():
        now = [0.0]
        gate = Gate(64, clock=lambda: now[0])
        entered = [await gate.enter() for _ in range(64)]
        now[0] = 1.0
        for each in entered:
            gate.refused(each, 0.0)
        assert gate.limit == 32, "one burst of refusals is one message"
        for _ in range(64):
            gate.leave()
        late = await gate.enter()
        now[0] = 2.0
        gate.refused(late, 0.0)
        assert gate.limit == 16
        gate.leave()
        for _ in range(16):
            gate.succeeded()
        assert 16.9 < gate.limit < 17.1, "one more a round trip"
        for _ in range(10_000):
            gate.succeeded()
        assert gate.limit == 64
        for n in range(20):
            now[0] = 100.0 + n
            gate.refused(now[0], 0.0)
        assert gate.limit == 1, "never none"

    asyncio.run(run())


def test_a_pause_holds_everybody_and_own_pauses_grow():
    async def run():
        gate = Gate(4)
        entered = await gate.enter()
        gate.refused(entered, 0.2)
        gate.leave()
        started = time.monotonic()
        await asyncio.gather(*(gate.enter() for _ in range(2)))
        assert 0.19 < time.monotonic() - started < 0.5

    asyncio.run(run())
    now = [0.0]
    gate, pauses = Gate(4, clock=lambda: now[0]), []
    for _ in range(12):
        gate.refused(now[0], None)
        pauses.append(gate._paused_until - now[0])
        now[0] = gate._paused_until + 1.0
    assert pauses == sorted(pauses)[: len(pauses)] or max(pauses) <= 30
    assert 0.3 <= pauses[0] <= 0.5 and 22 <= pauses[-1] <= 30


def test_requests_per_minute():
    async def run():
        gate = Gate(50, requests_per_minute=60 * 100)
        started = time.monotonic()
        for _ in range(50):
            await gate.enter()
        return time.monotonic() - started

    assert 0.35 < asyncio.run(run()) < 0.8  # 50 at 100 a second, a tenth of a second ahead


def test_who_gives_up_waiting_leaves_no_trace():
    async def run():
        gate = Gate(1)
        await gate.enter()
        waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        gate.leave()
        waiting[1].cancel()  # has just been let in, and does not know it yet
        await asyncio.gather(waiting[0], waiting[1], return_exceptions=True)
        await asyncio.wait_for(waiting[2], 1)
        assert gate.active == 1

    asyncio.run(run())


def test_a_closed_gate_sends_everybody_away():
    async def run():
        gate = Gate(1)
        await gate.enter()
        waiting = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        gate.close()
        with pytest.raises(GateClosedError):
            await waiting
        with pytest.raises(GateClosedError):
            await gate.enter()
        gate.leave()
        assert gate.active == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "nonsense"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Thu, 99 Foo 1970 00:00:00 GMT"}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers, now=30.0) == seconds
