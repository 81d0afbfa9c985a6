"""The batch API: one file out, one file back; a killed job continues with its sent batches."""

import asyncio
import dataclasses
import json
import os
import signal
import threading
import time

import pytest
from aiohttp import web

from distill.tasks.records import Record
from distill.teacher import ExtractConfig, ExtractionStoppedError, Prices, ServerConfig, extract
from distill.teacher.clients.store import ReplyStore
from distill.teacher.job.progress import Silent
from tests.distill.teacher.stub_server import error, serving

RECORDS = [Record(id=f"r{n}", input=f"message number {n}") for n in range(6)]


class BatchService:
    """Files and batches, as the hosted API has them."""

    def __init__(self, polls=1, status="completed", lose=(), fail=(), empty=()):
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.polls, self.status, self.lose, self.fail, self.empty = polls, status, lose, fail, empty
        self.sent = 0
        self.routes = [
            web.post("/v1/files", self.upload),
            web.get("/v1/files/{id}/content", self.content),
            web.post("/v1/batches", self.create),
            web.get("/v1/batches", self.list),
            web.get("/v1/batches/{id}", self.retrieve),
        ]

    async def upload(self, request):
        form = await request.post()
        assert form["purpose"] == "batch"
        name = f"file-{len(self.files)}"
        self.files[name] = form["file"].file.read()
        shown = {
            "object": "file",
            "bytes": 1,
            "created_at": 1,
            "filename": "x",
            "purpose": "batch",
            "status": "processed",
        }
        return web.json_response({"id": name} | shown)

    async def content(self, request):
        return web.Response(body=self.files[request.match_info["id"]])

    async def create(self, request):
        body = await request.json()
        name = f"batch-{len(self.batches)}"
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        self.sent += len(lines)
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": body["endpoint"], "input_file_id": body["input_file_id"],
            "completion_window": "24h", "status": "in_progress", "created_at": 1, "metadata": body["metadata"],
            "polls": self.polls, "output_file_id": None, "lines": lines,
        }  # fmt: skip
        return self.shown(name)

    def shown(self, name):
        batch = self.batches[name]
        return web.json_response({key: value for key, value in batch.items() if key not in ("lines", "polls")})

    async def list(self, request):
        data = [{k: v for k, v in batch.items() if k not in ("lines", "polls")} for batch in self.batches.values()]
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def retrieve(self, request):
        name = request.match_info["id"]
        if name not in self.batches:
            return error(404, "no such batch")
        batch = self.batches[name]
        batch["polls"] -= 1
        if batch["polls"] < 0 and batch["status"] == "in_progress":
            batch["status"] = self.status
            if self.status == "failed":
                batch["errors"] = {"data": [{"message": "the file is no good"}]}
                return self.shown(name)
            answers = []
            for number, line in enumerate(reversed(batch["lines"])):  # in whatever order
                if number in self.lose:
                    continue
                text = line["body"]["messages"][-1]["content"].split("\n")[0]
                message = {"content": f"{text} wants money. So the answer is billing."}
                body = {
                    "model": "batched",
                    "choices": [{"finish_reason": "stop", "message": message}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 10},
                }
                if number in self.empty:
                    body["choices"] = []
                response = {"status_code": 500 if number in self.fail else 200, "body": body}
                answers.append(json.dumps({"custom_id": line["custom_id"], "response": response, "error": None}))
            self.files[f"out-{name}"] = "\n".join([*answers, "not a line"]).encode()
            batch["output_file_id"] = f"out-{name}"
        return self.shown(name)


async def never(call):
    raise AssertionError("a batch job sends no single requests")


def config(stub, tmp_path, records=RECORDS, **changes):
    teacher = ServerConfig(model="stub", base_url=stub.url, batch=True, batch_poll_s=0.01, prices=Prices(10.0, 20.0))
    return ExtractConfig(
        output=str(tmp_path / "out.jsonl"), prompt="template", teachers=(teacher,), records=records, **changes
    )


def test_all_in_one_batch_at_a_discount(tmp_path):
    service = BatchService(polls=2)
    with serving(never, service.routes) as stub:
        report = extract(config(stub, tmp_path), progress=Silent())
        again = extract(config(stub, tmp_path), progress=Silent())
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["rationales"] for row in rows] == [[f"Message: message number {n} wants money."] for n in range(6)]
    assert report.cost == pytest.approx(6 * (100 * 10 + 10 * 20) / 1e6 / 2)
    assert (again.finished, again.cached, again.cost) == (0, 6, report.cost)
    assert service.sent == 6 and len(service.batches) == 1


def test_lost_and_failed_lines_are_counted_and_asked_again(tmp_path):
    service = BatchService(lose=(0,), fail=(1,))
    with serving(never, service.routes) as stub:
        report = extract(config(stub, tmp_path), progress=Silent())
        assert report.failures == {"not answered": 1, "server error": 1}
        service.lose = service.fail = ()
        report = extract(config(stub, tmp_path), progress=Silent())
    assert report.failures == {} and (report.cached, report.finished) == (4, 2)


def test_unusable_replies_that_may_have_been_charged_count_towards_the_cap(tmp_path):
    service = BatchService(lose=(0,), empty=(1,))  # the file has one line that cannot be read
    price = (100 * 10 + 10 * 20) / 1e6 / 2
    with serving(never, service.routes) as stub:
        first = extract(config(stub, tmp_path), progress=Silent())
        assert first.failures == {"not answered": 1, "wrong schema": 1} and first.unknown_usage == 1
        assert first.cost == pytest.approx(5 * price)
        with pytest.raises(ExtractionStoppedError, match=r"\(and perhaps 0\.0\d*[1-9]\d* for attempts"):
            extract(config(stub, tmp_path, cost_cap=6 * price), progress=Silent())
        service.lose = service.empty = ()
        assert extract(config(stub, tmp_path), progress=Silent()).cost == pytest.approx(7 * price)


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "died before the note"])
def test_a_killed_job_does_not_send_its_batch_twice(tmp_path, noted):
    service = BatchService(polls=10**9)
    with serving(never, service.routes) as stub:
        job = config(stub, tmp_path)

        async def killed():
            from distill.teacher import extract_async

            task = asyncio.create_task(extract_async(job, progress=Silent()))
            while not service.batches:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(killed())
        if not noted:
            with ReplyStore(job.store_path) as store:
                for name, _ in store.notes():
                    store.note(name, None)
        service.batches["batch-0"]["polls"] = 1
        report = extract(job, progress=Silent())
    assert report.finished == 6 and service.sent == 6


def test_an_interrupt_does_not_wait_for_the_batch(tmp_path):
    service = BatchService(polls=10**9)
    with serving(never, service.routes) as stub:
        job = config(stub, tmp_path)
        slow = dataclasses.replace(job.teachers[0], batch_poll_s=60)
        job = dataclasses.replace(job, teachers=(slow,))
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(ExtractionStoppedError, match="SIGINT"):
            extract(job, progress=Silent())
        assert time.monotonic() - started < 10
        service.batches["batch-0"]["polls"] = 0
        assert extract(job, progress=Silent()).finished == 6 and service.sent == 6


def test_a_batch_of_another_job_in_the_same_store_is_kept(tmp_path):
    service = BatchService(polls=10**9)
    with serving(never, service.routes) as stub:
        first = config(stub, tmp_path, RECORDS[:4])

        async def killed():
            from distill.teacher import extract_async

            task = asyncio.create_task(extract_async(first, progress=Silent()))
            while not service.batches:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(killed())
        service.polls = service.batches["batch-0"]["polls"] = 1
        assert extract(config(stub, tmp_path, RECORDS[3:]), progress=Silent()).finished == 3
        assert extract(first, progress=Silent()).cached == 4
    assert service.sent == 6


def test_a_refused_batch_is_a_clear_stop(tmp_path):
    service = BatchService(status="failed")
    with serving(never, service.routes) as stub, pytest.raises(ExtractionStoppedError, match="the file is no good"):
        extract(config(stub, tmp_path), progress=Silent())
    with serving(never) as stub, pytest.raises(ExtractionStoppedError, match="rejects the batch"):
        extract(config(stub, tmp_path), progress=Silent())


def test_the_cost_cap_holds_for_the_whole_batch(tmp_path):
    service = BatchService()
    with serving(never, service.routes) as stub, pytest.raises(ExtractionStoppedError, match="cost cap"):
        extract(config(stub, tmp_path, cost_cap=1e-4), progress=Silent())
    assert service.sent == 0
