"""Every command of "Bring your own task" runs, in its order, as it stands there; and what flags get wrong is said."""

import asyncio
import inspect
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from distill import exit_codes
from distill.cli import main
from distill.cli import teacher as commands
from distill.teacher.assembly.assemble import MISFIT
from distill.teacher.job.config import ExtractReport
from tests.distill.teacher.stub_server import serving
from tests_support import xla_flags

ROOT = pathlib.Path(__file__).parents[3]
DOC = ROOT / "docs" / "bring-your-own-task.md"
STEPS = "8"  # of training, in place of the page's


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", DOC.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def wired(command):
    """Whether the command line has this command already."""
    from distill.cli import main

    return command in main.COMMANDS


def call(function, words):
    """Calls a command's function with flags, as the command line does."""
    parameters = inspect.signature(function).parameters
    values = {}
    for word in words:
        name, equals, text = word.removeprefix("--").partition("=")
        kind = str(parameters[name].annotation)
        value = text if equals else True
        if "Sequence" in kind:
            value = [*values.get(name, []), value]
        elif "float" in kind:
            value = float(value)
        elif "int" in kind:
            value = int(value)
        values[name] = value
    return function(**values)


REASONS = {
    "billing": "The customer paid order {} twice. Payments are the business of billing.",
    "technical": "Photo {} makes the app close. That is a fault, which technical repairs.",
    "sales": "The writer wants an offer for {} people. Offers are made by sales.",
}


async def teacher(call_):
    await asyncio.sleep(0.001)
    question = call_.question
    for word, option in {"boat": "(b) harbour", "bees": "honey", "swims": "B"}.items():
        if word in question and "\n(c) " in question:
            return call_.reply(f"It says {word}. So the answer is {option}.")
    for team, why in REASONS.items():
        word = {"billing": "charged", "technical": "closes", "sales": "cost"}[team]
        if word in question:
            return call_.reply(f"{why.format(re.search(r'[0-9]+', question)[0])} So the answer is {team}.")
    return call_.reply("I do not know.")


def run_in_one_process(warm, lines, folder):
    """Runs ``distill`` lines one after the other in one new process."""
    script = folder / "lines.py"
    script.write_text(
        "import json, sys\n"
        "from distill.cli import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    if status := main.main(arguments): sys.exit(f'{arguments}: exit code {status}')\n"
    )
    environment = {"XLA_FLAGS": xla_flags(1)}
    given = [str(script), json.dumps(lines)]
    process = warm.start(given, folder / "lines.log", environment, "script_command", folder)
    assert process.wait() == 0, process.output


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the page's files in it, the prompts and the rows, as they stand there."""
    folder = tmp_path_factory.mktemp("task")
    for name, prompt, rows in zip(("messages", "quiz"), blocks("yaml"), blocks("json"), strict=True):
        (folder / f"{name}.yaml").write_text(prompt)
        (folder / f"{name}.jsonl").write_text(rows)
    return folder


@pytest.mark.slow
def test_every_command_of_the_page_runs(warm, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    later: list[list[str]] = []
    with serving(teacher) as stub:
        for command in blocks("bash"):
            # $'…\n…' is bash's, of which shlex knows nothing.
            command = re.sub(r"\$'(.*?)'", lambda found: shlex.quote(found[1].replace("\\n", "\n")), command)
            words = shlex.split(command.replace("http://localhost:8000/v1", stub.url))
            words = [re.sub(r"TRAIN_STEPS=\d+", f"TRAIN_STEPS={STEPS}", word) for word in words]
            program, name, *flags = words
            if (program, name) in (("distill", "extract"), ("distill", "inspect")):
                assert call({"extract": commands.run_extract, "inspect": commands.run_inspect}[name], flags) == 0
            else:
                assert program == "distill", "the page needs nothing but the installed command"
                later.append([name, *flags])
    run_in_one_process(warm, later, place)
    shown = capfd.readouterr().out
    assert "3 requests to send, 0 already answered" in shown and "3 of 3 rows written" in shown
    assert len(stub.calls) == 6, "the dry run and the replay ask nobody"

    explained = [json.loads(line) for line in (place / "explained.jsonl").read_text().splitlines()]
    replayed = [json.loads(line) for line in (place / "replayed.jsonl").read_text().splitlines()]
    assert all(row["rationales"] and row["llm_label"] == row["label"] for row in explained)
    same = ("id", "input", "label", "llm_label", "rationales")
    assert [[row[name] for name in same] for row in explained] == [[row[name] for name in same] for row in replayed]
    assert (place / "explained.html").stat().st_size > 20_000
    labelled = [json.loads(line) for line in (place / "labelled.jsonl").read_text().splitlines()]
    assert [row["line"] for row in labelled] == [1, 2, 3]
    assert all("label" in row for row in labelled)
    assert (place / "runs" / "messages_hf" / "model.safetensors").exists()
    quiz = [json.loads(line) for line in (place / "quiz_explained.jsonl").read_text().splitlines()]
    assert [row["llm_label"] for row in quiz] == ["harbour", "honey", "otter"] == [row["label"] for row in quiz]
    chosen = [json.loads(line) for line in (place / "answers.jsonl").read_text().splitlines()]
    assert all(answer["label"] in row["choices"] for answer, row in zip(chosen, quiz, strict=True))


@pytest.mark.parametrize("name", ["extract", "inspect"])
def test_the_command_line_takes_these_flags(name, place):
    if not wired(name):
        pytest.skip(f"NOT WIRED: `distill {name}` is not in distill/cli/main.py yet; its function was called instead")
    result = subprocess.run(
        [sys.executable, "-m", "distill.cli.main", name, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0
    for flag in inspect.signature(getattr(commands, f"run_{name}")).parameters:
        assert f"--{flag}" in result.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "no teacher given"),
        ({"field": ["question"], "model": ["m"]}, "--field needs NAME=FIELD"),
        ({"price_prompt": 1.0, "model": ["m"]}, "go together"),
        ({"recorded": ["nowhere.jsonl"]}, "nowhere.jsonl is missing"),
        ({"model": ["m"], "prompt": "templat"}, "did you mean 'template'"),
    ],
)
def test_wrong_flags_are_named(place, tmp_path, flags, message):
    settings = {"inputs": str(place / "messages.jsonl"), "output": str(tmp_path / "o.jsonl"), "prompt": "template"}
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\ ", " ")):
        commands.run_extract(**({"field": ["input=message"], "dry_run": True} | settings | flags))


@pytest.mark.parametrize(
    ("refusal", "code", "why", "remedy"),
    [
        (401, exit_codes.MISTAKE, "does not accept the key", "correct that, and run the command again to send"),
        (402, exit_codes.STOPPED, "requires payment", "run the same command again to send"),
    ],
)
def test_a_stopped_job_says_so_and_gives_its_exit_code(refusal, code, why, remedy, place, tmp_path, capsys):
    async def refuse(call_):
        from tests.distill.teacher.stub_server import error

        return error(refusal, "no") if call_.number else error(400, "too long")

    with serving(refuse) as stub:
        status = commands.run_extract(
            inputs=str(place / "messages.jsonl"),
            output=str(tmp_path / "o.jsonl"),
            prompt=str(place / "messages.yaml"),
            field=["input=message"],
            base_url=stub.url,
            model=["m"],
            concurrency=1,
        )
    assert status == code
    told = capsys.readouterr().err
    assert "0 answered now, 0 before, 1 failed, 2 not finished" in told and why in told and remedy in told
    assert f"failed requests: 1 × bad request\nfailures: {tmp_path}/o.failures.jsonl" in told


def test_quiet_hides_progress_and_shows_why_a_job_stopped(place, tmp_path, capsys):
    async def refuse(call_):
        from tests.distill.teacher.stub_server import error

        return error(402, "no money")

    with serving(refuse) as stub:
        words = [f"--inputs={place / 'messages.jsonl'}", f"--output={tmp_path / 'o.jsonl'}", "--field=input=message"]
        words += [f"--prompt={place / 'messages.yaml'}", f"--base_url={stub.url}", "--model=m", "--quiet"]
        assert main.main(["extract", *words]) == exit_codes.STOPPED
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("distill extract: ") and "requires payment" in captured.err


def test_a_job_without_any_request_fails():
    report = ExtractReport(read=2, written=2, misfits=2, examples={MISFIT: "no </s>"})
    assert commands._outcome(report) == (
        exit_codes.MISTAKE, "no reply could be used: 2 × the input does not fit the prompt: no </s>"
    )  # fmt: skip
