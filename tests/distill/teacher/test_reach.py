"""From the command line: every kind of server can be asked, and a job that got nothing says why and does not end with 0."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
from aiohttp import web

from distill import exit_codes
from distill.cli import teacher as commands
from distill.teacher import ServerConfig
from distill.teacher.clients import server, server_errors
from tests.distill.teacher.stub_server import error, serving

ROOT = pathlib.Path(__file__).parents[3]
GOOD = "It wants money back. So the answer is billing."


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"id": f"r{n}", "input": f"message number {n}", "label": "billing"} for n in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def extract(rows, url, **flags):
    settings = {"inputs": str(rows), "output": str(rows.parent / "out.jsonl"), "prompt": "template", "model": ["m"]}
    return commands.run_extract(**(settings | {"base_url": url} | flags))


async def good(call):
    return call.reply(GOOD)


def test_every_flag_reaches_the_server(rows, monkeypatch, capsys):
    monkeypatch.setenv("AZURE_KEY", "azure-secret-1")
    with serving(good) as stub:
        status = extract(
            rows,
            stub.url + "?api-version=2024-06-01",
            limit=1,
            temperature="none",
            max_tokens_field="max_completion_tokens",
            no_stop=True,
            extra=["reasoning_effort=low", "top_k=5", 'chat_template_kwargs={"enable_thinking": false}'],
            header=["X-Title=distill"],
            header_env=["api-key=AZURE_KEY"],
            query=["deployment=gpt"],
        )
    assert status == 0
    (call,) = stub.calls
    call.body.pop("messages")
    assert call.body == {
        "model": "m", "max_completion_tokens": 256, "reasoning_effort": "low", "top_k": 5,
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    assert dict(call.request.query) == {"api-version": "2024-06-01", "deployment": "gpt"}
    assert (call.request.headers["X-Title"], call.request.headers["api-key"]) == ("distill", "azure-secret-1")
    written = "".join(path.read_text(errors="replace") for path in rows.parent.iterdir())
    shown = capsys.readouterr()
    assert "azure-secret-1" not in written + shown.out + shown.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"header": ["api-key=sk-123"]}, "'api-key' looks like a secret; name an environment variable"),
        ({"query": ["sig=sk-123"]}, "'sig' looks like a secret"),
        ({"header": ["Authorization"]}, "--header needs NAME=VALUE, for instance X-Title=distill; got 'Authorization'"),
        ({"header_env": ["=sk-123"]}, "--header_env needs NAME=VARIABLE, for instance api-key=.*; got ''"),
        ({"extra": ["effort"]}, "--extra needs NAME=VALUE, for instance reasoning_effort=low; got 'effort'"),
        ({"temperature": "warm"}, "--temperature needs a number, or none"),
        ({"base_url": "http://h/v1?key=sk-123"}, r"must not hold a user, password or query.*--query=NAME=VALUE"),
    ],
)
def test_mistakes_are_named_and_secrets_are_not(rows, flags, message):
    with pytest.raises(ValueError, match=message) as wrong:
        extract(
            rows, **({"url": "http://127.0.0.1:9/v1"} | {k.replace("base_url", "url"): v for k, v in flags.items()})
        )
    assert "sk-123" not in str(wrong.value)


def unsupported(field, words="is not supported with this model."):
    return error(400, f"Unsupported parameter: '{field}' {words}", param=field, code="unsupported_parameter")


@pytest.mark.parametrize(
    ("field", "kept"), [("max_tokens", "max_completion_tokens"), ("stop", None)], ids=["max_tokens", "stop"]
)
def test_a_field_that_changes_nothing_is_left_out_and_said(rows, caplog, field, kept):
    async def behaviour(call):
        return unsupported(field) if field in call.body else call.reply(GOOD)

    with serving(behaviour) as stub:
        assert extract(rows, stub.url, concurrency=4) == 0
    assert all(field not in call.body and (kept is None or kept in call.body) for call in stub.calls[-4:])
    assert len(stub.calls) <= 12 + 8, "each request under way finds out once"
    (said,) = (record.message for record in caplog.records if "does not support" in record.message)
    assert said.startswith(f"teacher m: the server does not support {field}: ")


def test_a_field_that_changes_the_replies_is_for_the_user_to_leave_out(rows, capsys):
    async def behaviour(call):
        return error(
            400, "Unsupported value: 'temperature' does not support 0.0 with this model.",
            param="temperature", code="unsupported_value",
        )  # fmt: skip

    with serving(behaviour) as stub:
        assert extract(rows, stub.url, concurrency=1) == exit_codes.MISTAKE == 2
    shown = capsys.readouterr().err
    assert "'temperature' does not support 0.0" in shown and "--temperature=none" in shown
    assert len(stub.calls) <= 2, "the next one may be on its way"


def test_a_server_that_takes_neither_length_field_is_not_asked_for_ever(rows, capsys):
    async def behaviour(call):
        return unsupported("max_tokens" if "max_tokens" in call.body else "max_completion_tokens")

    with serving(behaviour) as stub:
        assert extract(rows, stub.url, concurrency=1) == 2
    assert len(stub.calls) <= 4


@pytest.mark.parametrize(
    ("named", "words", "field"),
    [
        (
            "max_tokens",
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens'.",
            "max_tokens",
        ),
        (None, "Unrecognized request argument supplied: `stop`", "stop"),
        (None, "{'loc': ['body', 'seed'], 'msg': 'Extra inputs are not permitted'}", "seed"),
        (None, "max_tokens is too large: 9999", None),
        ("messages", "Unsupported value: 'messages' does not support this", None),
        (None, "unknown field temperature", None),
    ],
)
def test_which_field_a_server_does_not_take(named, words, field):
    body = {"model": "m", "messages": [], "max_tokens": 5, "temperature": 0.0, "stop": ["x"], "seed": 1}
    assert server_errors.unsupported_field(named, words, body) == field


@pytest.mark.parametrize(
    ("response", "status", "words"),
    [
        ((404, "model 'm' not found, try pulling it first"), 2, "has no model 'm'"),
        ((400, "m is not a valid model ID"), 2, "has no model 'm'"),
        ((400, "The model `m` does not exist"), 2, "has no model 'm'"),
        ((400, "context length exceeded"), 2, "none of 12 requests was answered, for instance bad request: HTTP 400"),
        ((401, "bad key"), 2, "does not accept the key"),
        ((402, "pay first"), 75, "requires payment"),
    ],
)
def test_a_job_that_got_nothing_ends_in_the_servers_words(rows, capsys, response, status, words):
    async def behaviour(call):
        return error(*response)

    with serving(behaviour) as stub:
        assert extract(rows, stub.url) == status
    shown = capsys.readouterr().err
    assert words in shown and response[1] in shown


def test_a_filter_of_azure_is_a_refusal(rows, capsys):
    words = "The response was filtered due to the prompt triggering the content management policy."

    async def behaviour(call):
        if "number 3" in call.question:
            return error(400, words, code="content_filter", param="prompt")
        return call.reply(GOOD)

    with serving(behaviour) as stub:
        assert extract(rows, stub.url) == 0
    assert len(stub.calls) == 12
    assert "failed requests: 1 × refused" in capsys.readouterr().out


@pytest.mark.parametrize("limit", [1, 12])
def test_a_closed_port_is_not_0_however_few_rows(rows, capsys, monkeypatch, limit):
    monkeypatch.setattr(server, "_SHORTEST_PAUSE_S", 0.01)
    assert extract(rows, "http://127.0.0.1:9/v1", limit=limit) == 75
    shown = capsys.readouterr().err
    assert f"none of {limit} requests was answered" in shown and "no connection" in shown


def test_replies_that_none_can_be_used_are_not_0(rows, capsys):
    async def behaviour(call):
        return call.reply("No idea.")

    with serving(behaviour) as stub:
        assert extract(rows, stub.url) == 2
    assert "no reply could be used: 12 × no answer marker" in capsys.readouterr().err


@pytest.mark.parametrize(
    "reaction",
    [
        lambda: error(429, "slow down"),
        lambda: error(429, "slow down", headers={"Retry-After": "1"}),
        lambda: error(500, "trouble"),
        lambda: error(503, "loading", headers={"Retry-After": "1"}),
    ],
    ids=["429", "429-retry-after", "500", "503"],
)
def test_patience_bounds_the_wait_whatever_the_server_does(rows, capsys, reaction):
    async def behaviour(call):
        return reaction()

    with serving(behaviour) as stub:
        started = time.monotonic()
        assert extract(rows, stub.url, patience_s=1.5, concurrency=4) == 75
        assert time.monotonic() - started < 1.5 + 3.0
    assert "for 1 s, of patience_s=1.5" in capsys.readouterr().err.replace("for 0 s", "for 1 s").replace(
        "for 2 s", "for 1 s"
    )


def test_the_commands_load_nothing_heavy(rows):
    """Not JAX, not TensorFlow, nor anything else that is slow; not even where a student's bytes are counted."""
    recording = rows.parent / "replies.jsonl"
    recording.write_text("".join(json.dumps({"id": f"r{n}", "reply": GOOD}) + "\n" for n in range(12)))
    script = (
        "import sys\nfrom distill.cli import main\n"
        "status = main.main(sys.argv[1].split()) or main.main(sys.argv[2].split())\n"
        "heavy = {'jax', 'jaxlib', 'flax', 'tensorflow', 'seqio', 'torch', 'transformers', 'pandas', 'openai'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\nsys.exit(status)"
    )
    out = rows.parent / "o.jsonl"
    lines = (
        f"extract --inputs={rows} --prompt=template --recorded={recording} --output={out}",
        f"inspect --inputs={out} --output={out}.html --vocabulary=bytes",
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *lines],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=rows.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "heavy: []" in result.stdout
    assert "extract: reading rows and prompt" in result.stderr, "a line comes at once in a pipe"
    assert "extract: 12 of 12 requests" in result.stderr
    assert "tensorflow" not in result.stderr.lower() and "absl" not in result.stderr


def test_secrets_in_thoughts_and_tool_calls_are_taken_out(rows, monkeypatch, capsys):
    monkeypatch.setenv("AZURE_KEY", "azure-secret-1")
    call = {"function": {"name": "f", "arguments": "azure-secret-1"}}
    messages = ({"reasoning_content": "the key is azure-secret-1"}, {"tool_calls": [call]})

    async def behaviour(call_):
        body = call_.completion("")
        body["choices"][0]["message"] = {"role": "assistant", "content": None} | messages[call_.number % 2]
        return web.json_response(body)

    with serving(behaviour) as stub:
        assert extract(rows, stub.url, header_env=["api-key=AZURE_KEY"], concurrency=1) == 2
    failures = (rows.parent / "out.failures.jsonl").read_text()
    assert failures.count("[secret removed]") >= 12
    written = "".join(path.read_text(errors="replace") for path in rows.parent.iterdir())
    shown = capsys.readouterr()
    assert "azure-secret-1" not in written + shown.out + shown.err


def test_a_header_that_is_a_secret_is_refused_in_python_too():
    with pytest.raises(ValueError, match="headers_env"):
        ServerConfig(model="m", headers={"Authorization": "Bearer sk-123"})
