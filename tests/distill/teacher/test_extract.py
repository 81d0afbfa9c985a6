"""The whole phase: samples and votes, rationalisation, several teachers, selection, caching, provenance, dry runs."""

import asyncio
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from distill import atomic_files
from distill.tasks import jsonl, parsers, svamp
from distill.tasks.dataset import Dataset
from distill.tasks.records import PlainSource, Record
from distill.teacher import (
    ExtractConfig,
    ExtractionStoppedError,
    Prices,
    PromptError,
    RecordedConfig,
    Rules,
    Sampling,
    ServerConfig,
    estimate,
    extract,
    record,
    summarise,
)
from distill.teacher.clients.store import ReplyStore
from distill.teacher.job import extraction
from distill.teacher.job.progress import Logged, Silent, State
from tests.distill.teacher.stub_server import serving
from tests_support import read_lines

TEAMS = ("billing", "technical", "sales")


def say(why, team):
    return f"{why} So the answer is {team}."


def recorded(path, *rows, **changes):
    """A teacher with given replies: ``(id, [replies])`` or whole rows."""
    with path.open("w") as file:
        for row in rows:
            row = row if isinstance(row, dict) else {"id": row[0], "replies": row[1]}
            file.write(json.dumps(row) + "\n")
    return RecordedConfig(str(path), **({"name": path.stem} | changes))


def run(tmp_path, records, *teachers, **changes):
    settings = {"output": str(tmp_path / "out.jsonl"), "prompt": "template"}
    config = ExtractConfig(**(settings | {"teachers": teachers, "records": records} | changes))
    return extract(config, progress=Silent())


def one(tmp_path, replies, label="billing", **changes):
    """Extracts a single row with these replies; returns the report and the row, or None."""
    teacher = recorded(tmp_path / "t.jsonl", ("r", replies))
    report = run(
        tmp_path, [Record(id="r", input="I paid twice.", label=label)], teacher, samples=len(replies), **changes
    )
    written = read_lines(tmp_path / "out.jsonl")
    return report, written[0] if written else None


def test_samples_vote_and_the_share_becomes_the_weight(tmp_path):
    replies = [say("Paid twice.", "billing"), say("App broke.", "technical"), say("Money back.", "Billing"), "no idea"]
    report, row = one(tmp_path, replies)
    assert (row["llm_label"], row["weight"]) == ("billing", pytest.approx(2 / 3))
    assert row["rationales"] == ["Paid twice.", "Money back."]
    assert (row["provenance"]["votes"], row["provenance"]["voters"]) == (2, 3)
    assert row["provenance"]["rationales_by"] == [["t", 0], ["t", 2]]
    assert report.dropped == {"argues against the vote": 1} and report.unreadable == {"no answer marker": 1}
    (record_,) = jsonl.JsonLines({"all": str(tmp_path / "out.jsonl")})("all")
    assert row["label_votes"] == {"billing": pytest.approx(2 / 3), "technical": pytest.approx(1 / 3)}
    votes = (("billing", row["label_votes"]["billing"]), ("technical", row["label_votes"]["technical"]))
    known = {"rationale_teachers": ("t", "t"), "label_votes": votes}
    texts = ("Paid twice.", "Money back.")
    assert record_ == Record("r", "I paid twice.", "billing", "billing", texts, weight=2 / 3, **known)


def test_votes_compare_answers_not_spellings(tmp_path):
    teacher = recorded(
        tmp_path / "t.jsonl",
        ("r", ["Seven. The answer is (3 + 4).", "Nine. The answer is (3 * 3).", "Also. The answer is (10 - 3)."]),
    )
    run(tmp_path, [Record(id="r", input="x", label="( 4.0 + 3.0 )")], teacher, prompt="svamp", samples=3)
    (row,) = read_lines(tmp_path / "out.jsonl")
    assert (row["llm_label"], row["rationales"], row["weight"]) == (
        "(3 + 4)",
        ["Seven.", "Also."],
        pytest.approx(2 / 3),
    )


def test_a_tie_goes_to_what_was_said_first(tmp_path):
    report, row = one(tmp_path, [say("a b c.", "sales"), say("d e f.", "billing")])
    assert (row["llm_label"], row["weight"]) == ("sales", 0.5)
    assert report.noticed["the vote is tied: of the labels with most votes, the first is taken"] == 1
    report, _ = one(tmp_path, [say("a b c.", "sales"), say("d e f.", "billing"), say("g h i.", "billing")])
    assert not [reason for reason in report.noticed if "tied" in reason]


def test_a_rationale_without_a_single_answer_does_not_argue_against_the_vote(tmp_path):
    either, choices = "Boats float. So the answer is (a) or (b).", ("attic", "harbour", "oven")
    ann = recorded(tmp_path / "ann.jsonl", ("r", [either]))
    bob = recorded(tmp_path / "bob.jsonl", ("r", ["Boats rest. So the answer is (b) harbour."]))
    cyd = recorded(tmp_path / "cyd.jsonl", ("r", ["Ovens bake. So the answer is (c) oven."]))
    records = [Record(id="r", input="Where?", label="harbour", choices=choices)]
    report = run(tmp_path, records, ann, bob, cyd, prompt="cqa")
    (row,) = read_lines(tmp_path / "out.jsonl")
    assert (row["llm_label"], row["rationales"]) == ("harbour", ["Boats float.", "Boats rest."])
    assert row["provenance"]["rationales_by"] == [["ann", 0], ["bob", 0]]
    assert report.dropped == {"argues against the vote": 1}
    assert report.noticed["a rationale without a single answer is kept beside the vote"] == 1


@pytest.mark.parametrize(
    ("rules", "replies", "kept", "dropped"),
    [
        ({"keep": "all"}, [say("x y z.", "billing"), say("u v w.", "billing"), say("p q r.", "sales")], 3, {}),
        ({"least_share": 0.6}, [say("x y z.", "billing"), say("p q r.", "sales")], 0,
         {"argues against the vote": 1, "too little agreement among the samples": 1}),
        ({"shortest": 3}, [say("too short.", "billing"), say("this one is long enough.", "billing")], 1,
         {"rationale too short": 1}),
        ({"longest": 3}, [say("quite short.", "billing"), say("this one is far too long.", "billing")], 1,
         {"rationale too long": 1}),
        ({}, [say("Same words.", "billing"), say("same  WORDS.", "billing")], 1, {"the same rationale twice in a row": 1}),
        ({"leakage": "drop"}, [say("It is billing.", "billing"), say("They were charged twice here.", "billing")], 1,
         {"leakage: the bare answer": 1}),
        ({"on_disagreement": "drop_rationale"}, [say("x y z.", "sales")], 0,
         {"the teacher disagrees with the gold label": 1}),
        ({"on_disagreement": "keep"}, [say("x y z.", "sales")], 1, {}),
    ],
)  # fmt: skip
def test_rules(tmp_path, rules, replies, kept, dropped):
    report, row = one(tmp_path, replies, rules=Rules(**rules))
    assert (len(row["rationales"]), report.dropped) == (kept, dropped)
    assert row["label"] == "billing", "the row itself stays, for the label task"


def test_rows_can_be_dropped_and_are_counted(tmp_path):
    report, row = one(tmp_path, [say("x y z.", "sales")], rules=Rules(on_disagreement="drop_row"))
    assert row is None and report.dropped == {"row: the teacher disagrees with the gold label": 1}
    report, row = one(tmp_path, ["no idea"], label=None)
    assert row is None and report.dropped == {"row: neither label nor rationale": 1}
    report, row = one(tmp_path, ["no idea"], label=None, rules=Rules(drop_empty_rows=False))
    assert row["rationales"] == [] and report.written == 1


def test_boilerplate_over_many_rows(tmp_path):
    records = [Record(id=f"r{n}", input=f"message {n}", label="billing") for n in range(5)]
    teacher = recorded(tmp_path / "t.jsonl", *((f"r{n}", [say("It is about money.", "billing")]) for n in range(5)))
    report = run(tmp_path, records, teacher)
    assert report.noticed["the same rationale in another row"] == 4 and report.explained == 5
    report = run(tmp_path, records, teacher, rules=Rules(most_repeats=2))
    assert report.dropped == {"the same rationale in too many rows": 3} and report.explained == 2


@pytest.mark.parametrize(
    ("rationale", "told", "leak"),
    [
        ("The customer was charged twice.", False, None),
        ("Billing.", False, "the bare answer"),
        ("The answer is billing", False, "the bare answer"),
        ("So it must be (b) billing.", False, "the bare answer"),
        ("Refunds are billing.", False, None),
        ("A rebilling.", False, None),
        ("Therefore, so the answer is billing, they paid twice.", False, "the answer marker within the rationale"),
        ("The right team is billing because they paid twice.", True, "reveals that it was given the answer"),
        ("The right team is billing because they paid twice.", False, None),
    ],
)
def test_leakage(rationale, told, leak):
    from distill.teacher.assembly.selection import leak as leaks

    assert leaks(rationale, "billing", marker="So the answer is", hint_words=["the right team is"], told=told) == leak


@pytest.mark.parametrize(("leakage", "warnings"), [("count", 0), ("drop", 1)])
def test_a_job_that_drops_every_rationale_warns(tmp_path, caplog, leakage, warnings):
    report, _ = one(tmp_path, [say("It is billing.", "billing")], rules=Rules(leakage=leakage))
    assert (report.labelled, report.explained) == (1, 1 - warnings)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == warnings
    if told:
        assert "1 row written, none with a rationale (dropped: 1 × leakage: the bare answer)" in told[0]


def test_worked_examples_and_imitations_among_the_rows_are_noticed(tmp_path):
    records = [
        Record(id="r0", input="Do you have a plan for a school  with 300 pupils?"),
        Record(id="r1", input="Hello\nThoughts: none\nMessage: other"),
    ]
    teacher = recorded(tmp_path / "t.jsonl", *((f"r{n}", [say("a b c.", "sales")]) for n in range(2)))
    report = run(tmp_path, records, teacher)
    assert set(report.noticed) >= {
        "the input is a worked example of the prompt",
        "the input has lines that look like the prompt's own (indented in the prompt)",
    }


def test_rationalisation_explains_the_gold_label_where_the_teacher_erred(tmp_path):
    records = [Record(id=f"r{n}", input=f"message {n}", label="billing") for n in range(4)]
    told = [{"id": f"r{n}", "purpose": "rationalise", "reply": reply} for n, reply in (
        (1, say("They paid twice, hence money.", "billing")), (2, say("I still say no.", "sales")),
        (3, say("The right team is billing, as they paid.", "billing")))]  # fmt: skip
    teacher = recorded(
        tmp_path / "t.jsonl",
        ("r0", [say("They paid.", "billing")]),
        *((f"r{n}", [say("An app.", "technical")]) for n in (1, 2, 3)),
        *told,
    )
    rules = Rules(on_disagreement="drop_rationale", leakage="drop")
    report = run(tmp_path, records, teacher, rationalise="wrong", rules=rules)
    got = read_lines(tmp_path / "out.jsonl")
    assert [row["rationales"] for row in got] == [["They paid."], ["They paid twice, hence money."], [], []]
    assert [row["llm_label"] for row in got] == ["billing", "technical", "technical", "technical"]
    assert [row["provenance"].get("rationalised", False) for row in got] == [False, True, False, False]
    assert report.rationalised == 1 and report.agreed == 1
    assert report.dropped == {
        "argues for another answer than the given one": 1,
        "the teacher disagrees with the gold label": 1,
        "leakage: reveals that it was given the answer": 1,
    }
    assert report.requests == 4 + 3
    assert "Message: message 1\nThe right team is billing." in prompt_of(tmp_path, records[1])


def prompt_of(tmp_path, record_):
    from distill.teacher.prompts import templates

    return templates.load("template").text(record_.input, (), record_.label)


def test_labels_are_declared_for_prompts_without_a_parser(tmp_path):
    report, row = one(
        tmp_path, [say("x y z.", "accounts"), say("u v w.", "Sales")], label=None, labels=("sales", "accounting")
    )
    assert (row["llm_label"], row["rationales"]) == ("sales", ["u v w."]) and "weight" not in row
    assert report.unreadable == {"the answer is none of the labels": 1}
    assert report.dropped == {"argues for an answer that is none of the labels, against the vote": 1}
    assert report.examples == {"the answer is none of the labels": "got 'accounts'; the labels are sales, accounting"}
    with pytest.raises(PromptError, match="the parser 'cqa' defines its answers"):
        one(tmp_path, ["x"], prompt="cqa", labels=("a",))


def test_labels_outside_the_gold_ones_are_undecided(tmp_path):
    records = [Record(id=f"r{n}", input=f"message {n}", label=TEAMS[n % 2]) for n in range(6)]
    replies = [(f"r{n}", [say(f"Reason {n}.", "the billing desk" if n == 5 else TEAMS[n % 3])]) for n in range(6)]
    report = run(tmp_path, records, recorded(tmp_path / "t.jsonl", *replies))
    assert [row.get("llm_label") for row in read_lines(tmp_path / "out.jsonl")] == [*TEAMS, *TEAMS[:2], None]
    assert read_lines(tmp_path / "out.jsonl")[5]["rationales"] == ["Reason 5."], "its reasons stay"
    assert report.unreadable == {"the answer is none of the labels": 1}


def test_rationalisation_wants_its_question(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        'question: "Q: {input}"\nanswer: "{rationale} so: {label}"\nexamples: [{input: a, rationale: b, label: c}]'
    )
    with pytest.raises(PromptError, match="needs the entry 'rationalise'"):
        run(
            tmp_path,
            [Record("r", "x")],
            recorded(tmp_path / "t.jsonl", ("r", ["x"])),
            prompt=str(path),
            rationalise="all",
        )


def test_two_teachers_vote_together_or_apart(tmp_path):
    records = [Record(id=f"r{n}", input=f"message {n}", label="billing") for n in range(2)]
    ann = recorded(
        tmp_path / "ann.jsonl",
        ("r0", [say("Ann a b.", "billing")]),
        ("r1", [say("Ann c d.", "billing")]),
        prefix="[ann] ",
    )
    of_bob = (("r0", [say("Bob a b.", "billing")]), ("r1", [say("Bob c d.", "sales")]))
    bob = recorded(tmp_path / "bob.jsonl", *of_bob, name="bob/x y", prefix="[bob] ")
    run(tmp_path, records, ann, bob)
    together = read_lines(tmp_path / "out.jsonl")
    assert [row["rationales"] for row in together] == [["Ann a b.", "Bob a b."], ["Ann c d."]]
    assert together[1]["weight"] == 0.5 and "prefix" not in together[0]
    assert together[0]["provenance"]["rationales_by"] == [["ann", 0], ["bob/x y", 0]]

    report = run(tmp_path, records, ann, bob, combine="separate")
    assert report.outputs["records of bob/x y"].endswith("out.bob_x_y.jsonl")
    apart = read_lines(tmp_path / "out.bob_x_y.jsonl")
    assert [(row["rationales"], row["prefix"]) for row in apart] == [(["Bob a b."], "[bob] "), (["Bob c d."], "[bob] ")]
    assert [row["llm_label"] for row in read_lines(tmp_path / "out.ann.jsonl")] == ["billing", "billing"]
    assert report.written == 4
    files = {"train": [str(tmp_path / "out.ann.jsonl"), str(tmp_path / "out.bob_x_y.jsonl")]}
    named = [record.rationale_teachers for record in jsonl.JsonLines(files)("train")]
    assert named == [("ann",), ("ann",), ("bob/x y",), ("bob/x y",)]


async def good(call):
    return call.reply(say("They want money.", "billing"))


def server(stub, **changes):
    return ServerConfig(**({"model": "stub", "base_url": stub.url} | changes))


RECORDS = [Record(id=f"r{n}", input=f"message {n}", label="billing") for n in range(10)]


def test_replies_are_kept_across_runs_and_anything_that_matters_makes_new_keys(tmp_path):
    def calls(**changes):
        before = len(stub.calls)
        teacher = server(stub, **changes.pop("teacher", {}))
        run(tmp_path, changes.pop("records", RECORDS), teacher, **changes)
        return len(stub.calls) - before

    changed = tmp_path / "changed.yaml"
    from distill.teacher.prompts import templates

    shipped = pathlib.Path(templates.__file__).parent / "template.yaml"
    changed.write_text(shipped.read_text().replace("charged twice", "billed twice"))
    with serving(good) as stub:
        assert calls() == 10
        assert calls() == 0
        assert calls(records=[*RECORDS, Record("new", "another message")]) == 1
        assert calls(records=[Record("renamed", RECORDS[0].input)]) == 0, "the same question under another id"
        assert calls(teacher={"concurrency": 2, "attempts": 9, "name": "renamed"}) == 0, (
            "how hard to press is no matter"
        )
        assert calls(teacher={"model": "other"}) == 10
        assert calls(teacher={"sampling": Sampling(max_tokens=99)}) == 10
        assert calls(teacher={"extra": {"min_p": 0.1}}) == 10
        assert calls(teacher={"endpoint": "completions"}) == 10
        assert calls(prompt=str(changed)) == 10
        assert calls() == 0
    assert not atomic_files.partial(tmp_path / "out.jsonl").exists()


def test_the_same_question_twice_in_a_job_is_asked_once(tmp_path):
    records = [Record("a", "the same"), Record("b", "the same"), Record("a", "other")]
    with serving(good) as stub:
        report = run(tmp_path, records, server(stub))
    assert len(stub.calls) == 2 and report.written == 3
    assert report.noticed["two rows with the same id"] == 1


def test_provenance_travels_with_each_record_and_into_the_model_card(tmp_path):
    with serving(good) as stub:
        report = run(
            tmp_path, RECORDS, server(stub, name="stubby", sampling=Sampling(temperature=0.3)), keep_replies=True
        )
    row = read_lines(tmp_path / "out.jsonl")[3]["provenance"]
    (asked,) = row["teachers"]
    assert (row["prompt"], row["prompt_hash"]) == ("template", report.prompt_hash[:16])
    assert (asked["teacher"], asked["model"], asked["settings"]) == (
        "stubby", "stub-as-served", {"temperature": 0.3, "max_tokens": 256},
    )  # fmt: skip
    assert (
        asked["date"].startswith("20")
        and asked["usage"][0] > 100
        and asked["replies"] == [say("They want money.", "billing")]
    )
    summary = summarise(tmp_path / "out.jsonl")
    assert (summary.rows, summary.explained, summary.origins[0].rows) == (10, 10, 10)
    assert summary.origins[0].usage == report.usage["stubby"]
    card = summary.model_card()
    assert "10 of 10 training rows" in card and f"`{report.prompt_hash[:16]}`" in card and "temperature 0.3" in card
    assert json.loads(json.dumps(summary.to_json()))["origins"][0]["model"] == "stub-as-served"
    written = json.loads((tmp_path / "out.report.json").read_text())
    assert written["prompt_hash"] == report.prompt_hash and written["complete"]


def test_a_real_run_can_be_recorded_and_replayed(tmp_path):
    with serving(good) as stub:
        run(tmp_path, RECORDS, server(stub))
    first = (tmp_path / "out.jsonl").read_bytes()
    with ReplyStore(tmp_path / "out.replies.sqlite") as store:
        assert record(store, tmp_path / "recording.jsonl") == 10
    replay = RecordedConfig(str(tmp_path / "recording.jsonl"), name="stub", model="stub")
    run(tmp_path, RECORDS, replay, store=str(tmp_path / "fresh.sqlite"))
    assert (tmp_path / "out.jsonl").read_bytes() == first
    missing = RecordedConfig(str(tmp_path / "recording.jsonl"), name="stub", model="other")
    report = run(tmp_path, RECORDS, missing, store=str(tmp_path / "fresh2.sqlite"))
    assert report.failures == {"not recorded": 10}


def test_a_dry_run_prices_the_job_and_asks_nobody(tmp_path):
    with serving(good) as stub:
        teacher = server(stub, prices=Prices(10.0, 100.0))
        config = ExtractConfig(
            output=str(tmp_path / "o.jsonl"), prompt="template", teachers=(teacher,), records=RECORDS
        )
        limited = dataclasses.replace(teacher, requests_per_minute=5, tokens_per_minute=10**9)
        before = estimate(dataclasses.replace(config, teachers=(limited,)))
        assert not stub.calls and not (tmp_path / "o.replies.sqlite").exists()
        report = extract(config, progress=Silent())
        after = estimate(config)
    assert (before.requests, before.cached, before.at_least_minutes) == (10, 0, 2.0)
    assert before.cost < report.cost * 2 and report.cost < before.most_cost
    assert before.most_completion_tokens == 2560
    assert (after.requests, after.cached, after.cost) == (0, 10, 0.0) and after.measured
    for line in ("10 requests to send", "at least 2.0 minutes", "a guess"):
        assert line in str(before)
    without = ExtractConfig(
        output=str(tmp_path / "o2.jsonl"), prompt="template", teachers=(ServerConfig(model="m"),), records=RECORDS
    )
    assert "cost unknown" in str(estimate(without)), "and it needs no key"


def test_a_stopped_job_can_write_what_it_has(tmp_path):
    async def five(call):
        if call.number >= 5:
            from tests.distill.teacher.stub_server import error

            return error(401, "key expired")
        return await good(call)

    with serving(five) as stub:
        report = run(tmp_path, RECORDS, server(stub, concurrency=1), accept_partial=True)
    assert "key" in report.stopped and report.explained == 5 and report.written == 10
    assert (report.failures, report.failed, report.unfinished) == ({}, 0, 5)
    assert not read_lines(tmp_path / "out.failures.jsonl"), "requests that were not sent are no failures"
    assert "5 answered now, 0 before, 0 failed, 5 not finished" in str(report) and "stopped early" in str(report)


def test_the_counts_of_a_summary_add_up(tmp_path):
    """Eleven rows share nine requests: three fail, two replies cannot be read, and four are good."""

    async def mixed(call):
        from tests.distill.teacher.stub_server import error

        if call.number in (1, 2, 4):
            return error(400, "too long")
        return call.reply("no idea") if call.number in (0, 3) else await good(call)

    records = [*RECORDS[:9], dataclasses.replace(RECORDS[0], id="again"), dataclasses.replace(RECORDS[1], id="too")]
    with serving(mixed) as stub:
        report = run(tmp_path, records, server(stub, concurrency=1))
    assert (report.requests, report.finished, report.failed, report.unfinished) == (9, 6, 3, 0)
    assert (report.failures, report.unreadable) == ({"bad request": 3}, {"no answer marker": 2})
    assert report.examples["no answer marker"] == "'no idea'", "no detail, so the reply"
    assert "failed requests: 3 × bad request\nreplies that could not be read: 2 × no answer marker" in str(report)
    assert len(read_lines(tmp_path / "out.failures.jsonl")) == 7, "a line for each row"


def test_trouble_that_was_overcome_is_counted_by_reason(tmp_path):
    from aiohttp import web

    from tests.distill.teacher.stub_server import error

    async def troubled(call):
        if call.number in (1, 4):
            return error(500)
        if call.number == 2:
            return error(429)
        return web.Response(body=b"{", content_type="application/json") if call.number == 6 else await good(call)

    with serving(troubled) as stub:
        report = run(tmp_path, RECORDS[:5], server(stub, concurrency=1))
    assert (report.finished, report.failed) == (5, 0)
    assert report.repeated == {"server error": 2, "too many requests": 1, "broken JSON": 1}
    assert "\nattempts made again: 2 × server error; 1 × too many requests; 1 × broken JSON" in str(report)
    assert json.loads((tmp_path / "out.report.json").read_text())["repeated"] == report.repeated
    assert run(tmp_path, RECORDS[:5], server(stub, concurrency=1)).repeated == {}


def test_a_test_for_structured_output_that_is_made_again_is_counted(tmp_path):
    from tests.distill.teacher.stub_server import error

    async def troubled(call):
        return error(503) if call.number == 0 else await good(call)

    with serving(troubled) as stub:
        report = run(tmp_path, RECORDS[:2], server(stub, structured="auto", concurrency=1))
        assert len(stub.calls) == 4, "the test is call 0 and call 1"
    assert (report.finished, report.repeated) == (2, {"server error": 1})


def test_an_example_without_any_text_is_left_out(tmp_path):
    report, _ = one(tmp_path, [""])
    assert all(report.examples.values()), report.examples


def test_a_stopped_job_writes_its_failed_requests(tmp_path):
    async def worse(call):
        from tests.distill.teacher.stub_server import error

        return [error(400, "too long"), await good(call), error(401, "key expired")][min(call.number, 2)]

    with serving(worse) as stub, pytest.raises(ExtractionStoppedError) as stopped:
        run(tmp_path, RECORDS, server(stub, concurrency=1))
    report = stopped.value.report
    (failure,) = read_lines(tmp_path / "out.failures.jsonl")
    assert (failure["id"], failure["reason"], failure["input"]) == ("r0", "bad request", RECORDS[0].input)
    assert (report.failures, report.failed, report.unfinished) == ({"bad request": 1}, 1, 8)
    assert str(report).startswith("10 rows, none written") and report.outputs["failures"].endswith("failures.jsonl")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_what_is_under_way(tmp_path, monkeypatch, number):
    found, looked_up = ReplyStore.find, []
    monkeypatch.setattr(
        ReplyStore, "find", lambda store, keys: looked_up.append(list(keys)) or found(store, looked_up[-1])
    )

    async def slow(call):
        if call.number == 5:
            threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
        await asyncio.sleep(0.1)
        return await good(call)

    before = signal.getsignal(number)
    said = []
    monkeypatch.setattr(extraction, "automatic", lambda: Logged(every_s=3600, log=said.append))
    with serving(slow) as stub, pytest.raises(ExtractionStoppedError, match=signal.Signals(number).name) as stopped:
        config = ExtractConfig(
            output=str(tmp_path / "out.jsonl"),
            prompt="template",
            teachers=(server(stub, concurrency=3),),
            records=RECORDS,
        )
        extract(config)
    assert any(re.search(r"stopping: waiting for \d running requests, at most \d", line) for line in said), said
    report = stopped.value.report
    sent = len(stub.calls)
    assert report.finished == sent and 6 <= sent < 10, "nothing that was sent is lost"
    assert [len(keys) for keys in looked_up] == [10], "no stored reply is read between the signal and the end"
    counts = f"{sent} answered now, 0 before, 0 failed, {10 - sent} not finished"
    assert str(report).startswith(f"10 rows, none written\n10 requests: {counts}")
    written = json.loads((tmp_path / "out.report.json").read_text())
    assert (written["complete"], written["finished"], written["requests"]) == (False, sent, 10)
    assert signal.Signals(number).name in written["stopped"] and written["usage"]
    assert not (tmp_path / "out.jsonl").exists()
    assert signal.getsignal(number) is before


def test_it_runs_inside_a_running_event_loop(tmp_path):
    async def notebook():
        return run(tmp_path, RECORDS, server(stub))

    with serving(good) as stub:
        assert asyncio.run(notebook()).written == 10
        with pytest.raises(PromptError):
            asyncio.run(_in_loop(tmp_path))


async def _in_loop(tmp_path):
    return run(tmp_path, RECORDS, recorded(tmp_path / "t.jsonl", ("r", ["x"])), prompt="no such prompt")


def test_any_source_of_records_will_do(tmp_path, paper_data):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"q": "I paid twice.", "team": "billing"}\nnot json\n{"q": ""}\n{"q": "No light."}\n')
    teacher = recorded(
        tmp_path / "t.jsonl", ("all-0", [say("a b c.", "billing")]), ("all-3", [say("d e f.", "technical")])
    )
    settings = {"output": str(tmp_path / "out.jsonl"), "prompt": "template", "teachers": (teacher,)}
    report = extract(
        ExtractConfig(inputs=str(path), fields={"input": "q", "label": "team"}, **settings), progress=Silent()
    )
    assert (report.read, sum(report.rejected.values()), report.labelled) == (4, 2, 2)
    assert read_lines(tmp_path / "out.jsonl")[1]["provenance"]["line"] == 4

    dataset = Dataset("mine", PlainSource(lambda split: iter([Record("x", "text", label="billing")])))
    report = extract(ExtractConfig(dataset=dataset, split="test", **settings), progress=Silent())
    assert report.failures == {"not recorded": 1}

    dataset = svamp.dataset(str(paper_data), teacher="none")
    report = extract(ExtractConfig(dataset=dataset, limit=7, **(settings | {"prompt": "svamp"})), progress=Silent())
    assert report.read == report.written == 7


def test_inputs_that_do_not_fit_the_prompt_are_counted(tmp_path):
    records = [Record("r0", "one</s>two", label="neutral"), Record("r1", "just one", label="neutral")]
    teacher = recorded(tmp_path / "t.jsonl", ("r0", ["May be.\nAnswer: neutral"]))
    report = run(tmp_path, records, teacher, prompt="esnli")
    assert (report.failures, report.misfits) == ({}, 1)
    assert "rows without a request: 1 × the input does not fit the prompt" in str(report)
    assert [row["rationales"] for row in read_lines(tmp_path / "out.jsonl")] == [["May be."], []]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"records": None}, "exactly one of dataset, inputs and records; got none"),
        ({"inputs": "x.jsonl"}, "got inputs and records"),
        ({"teachers": ()}, "at least one teacher"),
        ({"teachers": (ServerConfig(model="a"), ServerConfig(model="a"))}, "two teachers have the name 'a'"),
        (
            {"teachers": (RecordedConfig("x", "../a"), RecordedConfig("y", "A")), "combine": "separate"},
            r"teachers '../a' and 'A' have the same, o.A.jsonl: one would replace the other",
        ),
        ({"samples": 0}, "samples must be ≥ 1"),
        ({"limit": 0}, "limit must be ≥ 1, or None for all rows; got 0"),
        ({"samples": 3, "teachers": (ServerConfig(model="a"),)}, "temperature 0: all samples would be the same"),
        ({"rationalise": "right"}, "rationalise must be one of .'off', 'wrong', 'all'.; got 'right'"),
        ({"combine": "mix"}, "combine must be one of"),
        ({"answer": "word"}, "answer must be one of"),
        ({"cost_cap": 1.0, "teachers": (ServerConfig(model="a"),)}, "cost_cap needs prices"),
        ({"output": ""}, "must name the file to write"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    settings = {"output": "o", "prompt": "template", "records": RECORDS, "teachers": (RecordedConfig("x"),)}
    with pytest.raises(ValueError, match=message):
        ExtractConfig(**(settings | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": "some"}, "keep must be one of"),
        ({"least_share": 2}, "least_share must be in"),
        ({"shortest": 5, "longest": 3}, "shortest must be ≤ longest"),
        ({"most_repeats": 0}, "most_repeats must be ≥ 1"),
    ],
)
def test_wrong_rules_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Rules(**changes)


@pytest.mark.parametrize(
    "line", ["no json", '{"reply": "x"}', '{"id": "a"}', '{"id": "a", "reply": 5}', '{"id": "a", "replies": ["x", 1]}']
)
def test_broken_recordings_are_named(tmp_path, line):
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "r", "reply": "x"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"t\.jsonl:2: "):
        RecordedConfig(str(path)).open()


def test_an_output_that_cannot_be_written_is_said_before_anybody_is_asked(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with serving(good) as stub:
        for output in ("file/out.jsonl", "folder"):
            with pytest.raises(ValueError, match="cannot be written"):
                run(tmp_path, RECORDS, server(stub), output=str(tmp_path / output), store=str(tmp_path / "s"))
        with pytest.raises(ValueError, match="a file of records is written to a local path; got 'gs://bucket/out"):
            run(tmp_path, RECORDS, server(stub), output="gs://bucket/out.jsonl", store=str(tmp_path / "s"))
    assert not stub.calls


def test_progress_says_where_it_is():
    said = []
    logged = Logged(every_s=0, log=said.append)
    with_cost = State(total=100, cached=20, finished=30, failed=1, prompt_tokens=5000, completion_tokens=70, cost=1.5)
    with_cost.started -= 10
    logged(with_cost)
    logged.close()
    assert len(said) == 2
    for part in ("51 of 100", "3.1/s", "5,000 + 70 tokens", "20 from before", "1 failed", "cost 1.50", "0:16 left"):
        assert part in said[0]


def test_a_job_that_stops_says_what_it_waits_for_and_no_time_left():
    said = []
    logged = Logged(every_s=3600, log=said.append)
    state = State(total=100, finished=50, active=3)
    state.started -= 10
    logged(state)
    state.waits_until = time.monotonic() + 90
    logged(state)
    logged(state)
    assert len(said) == 2 and said[0].endswith("3 running, 0:10 left")
    assert said[1].endswith("stopping: waiting for 3 running requests, at most 1:30")
    state.active = 0
    logged.close()
    assert "left" not in said[2] and "waiting" not in said[2]


def test_the_bar_draws_what_the_state_says():
    import io

    from rich.console import Console

    from distill.teacher.job.progress import Bar

    shown = io.StringIO()
    bar = Bar(Console(file=shown, force_terminal=True, width=120))
    bar(State(total=8, finished=3))
    bar.close()
    assert "3 of 8" in shown.getvalue()


def test_nothing_here_needs_jax_or_tensorflow():
    script = (
        "import sys; import distill.teacher.clients.transport, distill.teacher.clients.batch;"
        "import distill.cli.teacher, distill.teacher.inspect;"
        "heavy = {'jax', 'flax', 'tensorflow', 'seqio', 'torch', 'transformers'} & set(sys.modules); print(sorted(heavy));"
        "sys.exit(bool(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_parsers_are_those_of_the_paper_layout():
    from distill.teacher.prompts import parsing

    assert parsing.parsers is parsers


def test_an_extraction_replaces_neither_its_inputs_nor_files_of_others(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": f"r{n}", "input": f"q{n}", "label": "billing"}) + "\n" for n in range(3)))
    mine = tmp_path / "mine.txt"
    mine.write_text("my notes\n")
    teacher = recorded(tmp_path / "t.jsonl", ("r0", [say("Why.", "billing")]))
    before = {path: path.read_bytes() for path in (rows, mine, tmp_path / "t.jsonl")}

    def refused(message, **changes):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, None, teacher, inputs=str(rows), limit=1, **changes)
        assert {path: path.read_bytes() for path in before} == before

    for overwrite in (False, True):
        settings = {"overwrite": overwrite, "store": str(tmp_path / "s.sqlite")}
        refused(r"the output .*rows.jsonl is the input", output=str(rows), **settings)
        refused(r"the recording .*rows.jsonl is the input", record_to=str(rows), **settings)
        refused(r"the recording .*t.jsonl is the input", record_to=str(tmp_path / "t.jsonl"), **settings)
        refused("the recording and the output are one file", record_to=str(tmp_path / "out.jsonl"), **settings)
        refused(r"the store .*rows.jsonl is the input", **settings | {"store": str(rows)})
    refused("the output .*mine.txt exists, and was not written by `distill extract`", output=str(mine))
    refused("the recording .*mine.txt exists, and was not written", record_to=str(mine))
    (tmp_path / "out.report.json").write_text("{}")
    refused("the report .*out.report.json exists, and was not written")
    (tmp_path / "out.report.json").unlink()
    for _ in range(2):  # the second job replaces the files of the first one
        report = run(tmp_path, None, teacher, inputs=str(rows), limit=2, record_to=str(tmp_path / "again.jsonl"))
    assert report.written == 2 and report.outputs["recording"] == str(tmp_path / "again.jsonl")
    run(tmp_path, None, teacher, inputs=str(rows), limit=1, output=str(mine), overwrite=True)
    assert len(read_lines(mine)) == 1


def test_a_mapped_field_that_no_row_has_is_refused_before_anybody_is_asked(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "a?", "options": ["x", "y"]}\n{"question": "b?", "answer": "x"}\n')
    settings = {"inputs": str(rows), "limit": 1, "output": str(tmp_path / "out.jsonl"), "prompt": "template"}
    with serving(good) as stub:
        for function in (lambda config: extract(config, progress=Silent()), estimate):
            fields = {"input": "question", "choices": "option"}
            config = ExtractConfig(teachers=(server(stub),), fields=fields, **settings)
            with pytest.raises(
                ValueError, match="no row has the field 'option' that 'choices' is mapped to; did you mean"
            ):
                function(config)
        assert not stub.calls
        fields = {"input": "question", "label": "answer"}  # the second row has it
        assert extract(ExtractConfig(teachers=(server(stub),), fields=fields, **settings), progress=Silent()).read == 1


def test_a_dry_run_shows_the_first_request_and_warns_of_choices_that_no_request_shows(tmp_path, caplog):
    records = [Record("r", "Which one?", choices=("red rug", "blue rug")), Record("s", "x or y?", choices=("x", "y"))]
    settings = {"output": str(tmp_path / "out.jsonl"), "prompt": "template", "records": records}
    found = str(estimate(ExtractConfig(teachers=(ServerConfig(model="m"),), **settings)))
    assert "\nthe first request:\n[system]" in found and found.endswith("\n[user] Message: Which one?\nThoughts:")
    assert "does not see the choices of 1 of 2 rows that have some" in caplog.text


def test_rejected_rows_are_counted_and_listed_with_their_lines(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "r0", "input": "a"}\nno json\n{"id": "r1"}\n{"id": "r2", "input": "b"}\n{"id": "r3"}\n')
    teacher = recorded(tmp_path / "t.jsonl", *((f"r{n}", [say("Why.", "billing")]) for n in range(4)))
    report = run(tmp_path, None, teacher, inputs=str(rows))
    assert str(report).startswith("2 of 5 rows written, ")
    assert f"2 × the row has no input: field 'input' is absent (first: {rows}:3)" in str(report)
    listed = [row for row in read_lines(tmp_path / "out.failures.jsonl") if row.get("kind") == "row"]
    assert [(row["file"], row["line"]) for row in listed] == [(str(rows), line) for line in (2, 3, 5)]
    limited = run(tmp_path, None, teacher, inputs=str(rows), limit=1)
    assert (limited.read, limited.rejected) == (1, {})
