"""Requests per second of `distill extract` against one server, compared with the limit of latency and concurrency.

    python benchmarks/teacher_throughput.py [--requests=3200] [--latency=0.2] [--concurrency=64]

A stub server on loopback, in its own process, answers every request after a fixed time. The ideal is concurrency /
latency: 320 requests/s at 64 and 200 ms. Two things are measured. The first is the time of the requests, from the first
one that reaches the server to its last reply, with all the work of a real job (the request gate, the OpenAI client,
reading replies, writing each to the store and syncing to disk). The second is the whole job, including prompts, voting,
selection and the output file. The last line is JSON. It takes about as long as the ideal: ten seconds.
"""

import argparse
import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))


def serve(latency: float) -> None:
    """Answers every chat completion after ``latency`` seconds; prints its port, and at the end its figures."""
    from aiohttp import web

    times: list[float] = []
    active = most = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal active, most
        if not times:
            times.append(time.monotonic())
        active += 1
        most = max(most, active)
        number = len(await request.read())
        await asyncio.sleep(latency)
        active -= 1
        text = "The customer wants money back, and payments are the business of billing. So the answer is billing."
        body = {
            "id": "x", "object": "chat.completion", "created": 1, "model": "stub",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": number // 4, "completion_tokens": 20, "total_tokens": number // 4 + 20},
        }  # fmt: skip
        times[1:] = [time.monotonic()]
        return web.json_response(body)

    async def figures(request: web.Request) -> web.Response:
        nonlocal most
        result = {"seconds": times[1] - times[0], "most_at_once": most}
        times.clear()
        most = 0
        return web.json_response(result)

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", answer), web.get("/figures", figures)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(site._server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


def measure(port: int, requests: int, concurrency: int, folder: str) -> tuple[float, float, dict]:
    """Returns the seconds of one whole job, its CPU seconds, and the server's figures."""
    import urllib.request

    from distill.tasks.records import Record
    from distill.teacher import ExtractConfig, ServerConfig, extract
    from distill.teacher.job.progress import Silent

    records = [Record(id=f"r{n}", input=f"I was charged twice, message {n}.", label="billing") for n in range(requests)]
    teacher = ServerConfig(model="stub", base_url=f"http://127.0.0.1:{port}/v1", concurrency=concurrency)
    config = ExtractConfig(
        output=os.path.join(folder, "out.jsonl"), prompt="template", teachers=(teacher,), records=records
    )
    started, cpu = time.monotonic(), time.process_time()
    report = extract(config, progress=Silent())
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    assert report.finished == report.agreed == requests, report
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/figures") as response:
        return seconds, cpu, json.load(response)


def main() -> None:
    """Runs the server and the job, prints a summary and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=3200)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.latency)
        return
    command = [sys.executable, str(HERE), "--serve", f"--latency={arguments.latency}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            measure(port, arguments.concurrency, arguments.concurrency, os.path.join(folder, "warm"))
            seconds, cpu, figures = measure(port, arguments.requests, arguments.concurrency, folder)
    finally:
        server.terminate()
        server.wait()
    ideal = arguments.concurrency / arguments.latency
    whole, alone = arguments.requests / seconds, arguments.requests / figures["seconds"]
    print(f"ideal {ideal:.0f} requests/s ({arguments.concurrency} at once, {1000 * arguments.latency:.0f} ms each)")
    print(
        f"requests alone  {alone:6.1f}/s  {alone / ideal:.1%} of the ideal; {figures['most_at_once']} at once at most"
    )
    each = 1000 * cpu / arguments.requests
    print(f"whole job       {whole:6.1f}/s  {whole / ideal:.1%} of the ideal; {each:.2f} ms CPU a request")
    result = {
        "benchmark": "teacher_throughput",
        "requests": arguments.requests,
        "ideal_per_second": ideal,
        "per_second": round(alone, 1),
        "ratio": round(alone / ideal, 4),
        "whole_job_per_second": round(whole, 1),
        "whole_job_ratio": round(whole / ideal, 4),
        "cpu_ms_per_request": round(each, 3),
        "most_at_once": figures["most_at_once"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
