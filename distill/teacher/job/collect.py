"""Collects a reply for every request: from the store, or else from the teacher, whose reply is then stored."""

import asyncio
import collections
import contextlib
import dataclasses
import functools
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from distill.teacher.assembly.asked import Collected
from distill.teacher.clients import cost
from distill.teacher.clients.cost import Budget, Prices, Reservation, Tokenizing
from distill.teacher.clients.replies import (
    BatchTeacherBase,
    Reply,
    Request,
    RequestFailedError,
    Teacher,
    TeacherSettingsError,
    TeacherStoppedError,
    Usage,
)
from distill.teacher.clients.store import ReplyStore, StoredReplies
from distill.teacher.job.progress import Progress, Silent, State

_log = logging.getLogger(__name__)
_LOOKED_UP = 10_000  # stored replies in memory at once
_MUCH = 1.5  # a reply has at most this many times the requested tokens: counts of servers differ a little
CAP_REACHED = "the cost cap is reached"
"""The beginning of :attr:`~distill.teacher.assembly.asked.Collected.stopped` of a job that may spend no more."""
_DISCARDED = "discarded "  # prefix of the store's notes on charged attempts without a reply, by request key


class Collector:
    """Collects the replies of one job and counts its cost over several rounds.

    Args:
      teachers: by name.
      store: the reply store.
      prices: by teacher's name; teachers without prices are not counted.
      budget: see :class:`~distill.teacher.clients.cost.Budget`.
      progress: called after every change of the state.
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        store: ReplyStore,
        *,
        prices: Mapping[str, Prices] | None = None,
        budget: Budget | None = None,
        progress: Progress | None = None,
    ):
        self.teachers = dict(teachers)
        self.store = store
        self.prices = dict(prices or {})
        self.budget = budget or Budget()
        self.progress = progress or Silent()
        self.state = State(cost=0.0 if self.prices else None, perhaps_cost=0.0 if self.prices else None)
        self.usage: dict[str, Usage] = collections.defaultdict(Usage)
        self.tokenizing: dict[str, Tokenizing] = collections.defaultdict(Tokenizing)
        self._settled = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stop = ""
        self._hopeless = False
        self._working: collections.Counter[str] = collections.Counter()  # teacher → requests that it has received
        self._warned: set[str] = set()  # teachers whose replies are longer than requested
        self._waiting = 0  # running requests whose next attempt waits for room in the budget

    def _show(self) -> None:
        """Displays the state, with the number of requests that the teachers work on now."""
        self.state.active = sum(
            number if (running := self.teachers[name].running) is None else min(number, running)
            for name, number in self._working.items()
            if number
        )
        self.progress(self.state)

    async def wants_json(self, teacher: Teacher) -> bool:
        """Asks a teacher whether its replies are JSON; attempts that a test request makes again are counted.

        Raises:
          TeacherStoppedError: the test request failed.
        """

        async def may_try_again(risk: float) -> bool:
            return True

        # The one small request is in no budget.
        cost.reservation.set(Reservation(self.budget, 0.0, may_try_again, lambda usage: None, self._repeated))
        try:
            return await teacher.wants_json(self.store)
        finally:
            cost.reservation.set(None)

    def lookup(self, requests: Iterable[Request]) -> list[Request]:
        """The distinct requests without a stored reply; stored replies are added to usage and cost."""
        distinct: dict[str, Request] = {}
        for request in requests:
            distinct.setdefault(request.key, request)
        keys, todo = list(distinct), []
        for start in range(0, len(keys), _LOOKED_UP):
            part = keys[start : start + _LOOKED_UP]
            found = self.store.find(part)
            for key in part:
                if key in found:
                    self._count(distinct[key], found[key])
                else:
                    todo.append(distinct[key])
        for name, value in self.store.notes(_DISCARDED):
            asked = distinct.get(name.removeprefix(_DISCARDED))
            if asked is not None:
                spent = json.loads(value)
                self._spend(asked, Usage(*spent["usage"]))
                self.budget.perhaps_spent += spent["unknown"] * self._risk(asked)
                self._unknown(spent["unknown"])
        self.state.total += len(distinct)
        self.state.cached += len(distinct) - len(todo)
        return todo

    def stop(self, reason: str) -> None:
        """Starts no further requests; running requests finish."""
        if not self._stop:
            self._stop = reason
            _log.info("stopping: %s", reason)
            for teacher in self.teachers.values():
                teacher.halt()
            graces = [each.grace_s for each in self.teachers.values() if not isinstance(each, BatchTeacherBase)]
            self.state.waits_until = time.monotonic() + max(graces, default=0.0)
            self._show()
        self._stopped.set()
        self._settled.set()

    async def collect(self, requests: Iterable[Request]) -> Collected:
        """Replies or failures for all ``requests``.

        A failed request or a stopped teacher raises nothing; see :attr:`Collected.stopped`.

        Raises:
          StoreError: a reply could not be written.
        """
        result = Collected(StoredReplies(self.store))
        todo: dict[str, list[Request]] = collections.defaultdict(list)
        for request in self.lookup(requests):
            todo[request.teacher].append(request)
        self._show()
        with _on_interrupt(self.stop), self._ticking():
            crews = [self._crew(self.teachers[name], batch, result) for name, batch in todo.items()]
            await asyncio.gather(*crews)
        result.stopped, result.hopeless = self._stop, self._hopeless
        return result

    @contextlib.contextmanager
    def _ticking(self) -> Iterator[None]:
        """Updates the progress once per second, also while no reply arrives."""

        async def tick() -> None:
            while True:
                await asyncio.sleep(1.0)
                self._show()

        ticking = asyncio.create_task(tick())
        try:
            yield
        finally:
            ticking.cancel()

    async def _crew(self, teacher: Teacher, requests: Sequence[Request], result: Collected) -> None:
        if isinstance(teacher, BatchTeacherBase):
            await self._batch(teacher, requests, result)
            return
        queue = iter(requests)
        streak = _Streak(teacher.give_up_after)
        number = min(len(requests), teacher.parallel)
        workers = [asyncio.create_task(self._work(teacher, queue, streak, result)) for _ in range(number)]
        stopping = asyncio.create_task(self._stopped.wait())
        try:
            pending: set[asyncio.Task[Any]] = set(workers)
            while pending and not stopping.done():
                done, _ = await asyncio.wait({*pending, stopping}, return_when=asyncio.FIRST_COMPLETED)
                pending -= done
                for task in done - {stopping}:
                    task.result()
            if pending:
                # Running requests may be charged already: wait for them, for at most grace_s.
                done, pending = await asyncio.wait(pending, timeout=teacher.grace_s)
                for task in done:
                    task.result()
        finally:
            for task in (*workers, stopping):
                task.cancel()
            await asyncio.gather(*workers, stopping, return_exceptions=True)

    async def _work(self, teacher: Teacher, queue: Iterator[Request], streak: "_Streak", result: Collected) -> None:
        while not self._stop:
            request = next(queue, None)
            if request is None:
                return
            risk = self._risk(request)
            if not await self._may_spend(risk):
                return
            self.budget.reserve(risk)
            self._working[teacher.name] += 1
            discarded = functools.partial(self._discard, request)
            reserved = Reservation(self.budget, risk, self._may_try_again, discarded, self._repeated)
            cost.reservation.set(reserved)
            try:
                await self._ask(teacher, request, reserved, streak, result)
            finally:
                cost.reservation.set(None)
                self._working[teacher.name] -= 1
                self._settled.set()
                self._show()

    async def _ask(
        self, teacher: Teacher, request: Request, reserved: Reservation, streak: "_Streak", result: Collected
    ) -> None:
        try:
            reply = await teacher.ask(request)
        except RequestFailedError as error:
            reserved.close(error.perhaps_paid)
            if error.failure.reason == "not sent":
                return
            result.failures[request.key] = error.failure
            self.state.failed += 1
            if streak.failed(error.failure.reason):
                self.stop(
                    f"{streak.failures} requests to teacher {teacher.name!r} failed consecutively, the last with: {error}"
                )
            return
        except TeacherStoppedError as error:
            reserved.close()
            self._stop_for(error)
            return
        except BaseException:
            reserved.close(perhaps_paid=True)
            raise
        streak.succeeded()
        await self.store.put(reply, record=request.record_id, teacher=request.teacher, sample=request.sample)
        reserved.close()
        self._count(request, reply)
        self.state.finished += 1

    def _stop_for(self, error: TeacherStoppedError) -> None:
        self._hopeless = self._hopeless or (not self._stop and isinstance(error, TeacherSettingsError))
        self.stop(str(error))

    def _discard(self, request: Request, usage: Usage | None) -> None:
        """Counts an attempt without a reply, and stores a note: it still counts after a restart."""
        if usage is not None:
            self._spend(request, usage)
        else:
            self._unknown(1)
        note = f"{_DISCARDED}{request.key}"
        noted = dict(self.store.notes(note)).get(note)
        before: dict[str, Any] = json.loads(noted) if noted else {"usage": [0, 0], "unknown": 0}
        total = Usage(*before["usage"]) + (usage or Usage())
        unknown = before["unknown"] + int(usage is None)
        after = {"usage": [total.prompt_tokens, total.completion_tokens], "unknown": unknown}
        self.store.note(note, json.dumps(after))

    def _repeated(self, reason: str) -> None:
        self.state.repeated[reason] += 1

    async def _batch(self, teacher: BatchTeacherBase, requests: Sequence[Request], result: Collected) -> None:
        risk = sum(self._risk(request) for request in requests)
        if not self.budget.fits(risk):
            self.stop(self._over_budget(risk))
            return
        by_key = {request.key: request for request in requests}
        self.budget.reserve(risk)
        outcomes = teacher.ask_batch(requests, self.store)
        stopping = asyncio.create_task(self._stopped.wait())
        try:
            while not stopping.done():
                upcoming = asyncio.ensure_future(anext(outcomes))
                await asyncio.wait({upcoming, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not upcoming.done():
                    upcoming.cancel()  # the service continues the batch; the next run fetches it
                    await asyncio.gather(upcoming, return_exceptions=True)
                    break
                key, outcome = upcoming.result()
                await self._settle(by_key[key], outcome, result)
        except StopAsyncIteration:
            pass
        except TeacherStoppedError as error:
            self._stop_for(error)
        finally:
            stopping.cancel()
            self.budget.release(risk)
            await outcomes.aclose()

    async def _settle(self, request: Request, outcome: Reply | RequestFailedError, result: Collected) -> None:
        if isinstance(outcome, RequestFailedError):
            result.failures[request.key] = outcome.failure
            if outcome.perhaps_paid:
                if outcome.usage is None:
                    self.budget.perhaps_spent += self._risk(request)
                self._discard(request, outcome.usage)
            self.state.failed += 1
        else:
            await self.store.put(outcome, record=request.record_id, teacher=request.teacher, sample=request.sample)
            self._count(request, outcome, batch=True)
            self.state.finished += 1
        self._show()

    def _warn_of_length(self, request: Request, usage: Usage | None) -> None:
        """Warns once of a reply with more tokens than requested: the server ignores the limit, costs have no bound."""
        most = request.sampling.max_tokens * request.samples
        if usage is not None and usage.completion_tokens > _MUCH * most and request.teacher not in self._warned:
            self._warned.add(request.teacher)
            _log.warning(
                "teacher %s: a reply has %s tokens by the server's count, and at most %s were requested (--max_tokens): "
                "the server ignores this limit, so costs can exceed the estimate%s",
                request.teacher,
                f"{usage.completion_tokens:,}",
                f"{most:,}",
                "" if self.budget.cap is None else " and the cost cap",
            )

    def _count(self, request: Request, reply: Reply, batch: bool | None = None) -> None:
        self._warn_of_length(request, reply.usage)
        self.tokenizing[request.model].learn(request, reply.usage)
        if reply.usage is None:
            self.budget.perhaps_spent += self._risk(request)
            self._unknown(1)
        else:
            self._spend(request, reply.usage, batch)

    def _unknown(self, attempts: int) -> None:
        """Counts attempts of unknown usage, whose highest possible cost is in the budget already."""
        self.state.unknown_usage += attempts
        if self.prices:
            self.state.perhaps_cost = self.budget.perhaps_spent

    def _spend(self, request: Request, usage: Usage, batch: bool | None = None) -> None:
        self.usage[request.teacher] += usage
        self.state.prompt_tokens += usage.prompt_tokens
        self.state.completion_tokens += usage.completion_tokens
        prices = self.prices.get(request.teacher)
        if prices is not None:
            if batch is None:
                batch = isinstance(self.teachers.get(request.teacher), BatchTeacherBase)
            self.budget.spent += prices.of(usage, batch=batch)
            self.state.cost = self.budget.spent

    def _risk(self, request: Request) -> float:
        """The highest possible cost of a request."""
        prices = self.prices.get(request.teacher)
        if prices is None:
            return 0.0
        batch = isinstance(self.teachers.get(request.teacher), BatchTeacherBase)
        return prices.of(cost.most(request, self.tokenizing[request.model]), batch=batch)

    async def _may_try_again(self, risk: float) -> bool:
        """:meth:`_may_spend` for another attempt of a running request."""
        self._waiting += 1
        self._settled.set()
        try:
            return await self._may_spend(risk)
        finally:
            self._waiting -= 1

    async def _may_spend(self, risk: float) -> bool:
        """Whether an attempt may start; waits while running requests may free budget, and otherwise stops the job."""
        while not self.budget.fits(risk):
            if self._working.total() == self._waiting:
                self.stop(self._over_budget(risk))
            if self._stop:
                return False
            self._settled.clear()
            await self._settled.wait()
        return not self._stop

    def _over_budget(self, risk: float) -> str:
        budget = self.budget
        spent = f"{cost.amount(budget.spent)}{cost.perhaps(budget.perhaps_spent)} of {cost.amount(budget.cap or 0.0)}"
        least = cost.amount(budget.spent + budget.perhaps_spent + risk)
        return (
            f"{CAP_REACHED}: {spent} is spent, the next request may cost {cost.amount(risk)} and needs a cap of at least "
            f"{least}"
        )


@dataclasses.dataclass
class _Streak:
    """Counts consecutive failures. After one success, request-specific errors no longer count towards the limit."""

    limit: int | None
    failures: int = 0
    any_success: bool = False

    def failed(self, reason: str) -> bool:
        if not (self.any_success and reason in ("bad request", "reply too large", "refused")):
            self.failures += 1
        return self.limit is not None and self.failures >= self.limit

    def succeeded(self) -> None:
        self.failures, self.any_success = 0, True


@contextlib.contextmanager
def _on_interrupt(stop: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM lets running requests finish; a second one ends the process immediately."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    loop = asyncio.get_running_loop()
    before = {}

    def interrupted(number: int) -> None:
        name = signal.Signals(number).name
        _log.warning("%s: finishing the running requests (a second signal ends them)", name)
        stop(name)
        for each in numbers:
            loop.remove_signal_handler(each)

    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            before[number] = signal.getsignal(number)
            with contextlib.suppress(NotImplementedError):  # not available on Windows
                loop.add_signal_handler(number, interrupted, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)
