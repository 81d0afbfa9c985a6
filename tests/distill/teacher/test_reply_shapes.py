"""Response bodies of vLLM, Ollama, llama.cpp, OpenAI, Azure, Mistral, OpenRouter, Gemini and Anthropic, literally."""

import json

import pytest

from distill.tasks.records import Record
from distill.teacher.clients import completion
from distill.teacher.clients.replies import Candidate, RequestFailedError, Usage
from distill.teacher.prompts import parsing, templates

GOOD = "It wants money back. So the answer is billing."
RECORD = Record(id="r", input="I paid twice.")


def chat(message, finish="stop", **more):
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]} | more


def said(body):
    (choice,) = completion.read(body, key="k").candidates
    return parsing.read_candidate(templates.load("template"), choice, RECORD)


ANSWERED = {
    "openai": chat(
        {"content": GOOD, "refusal": None, "annotations": []}, usage={"prompt_tokens": 9, "completion_tokens": 4}
    ),
    "vllm-reasoning": chat(
        {"content": "\n\n" + GOOD, "reasoning_content": "So the answer is sales?", "tool_calls": []}
    ),
    "vllm-no-parser": chat({"content": "Sales? So the answer is sales?\n</think>\n\n" + GOOD}, stop_reason=None),
    "ollama": chat({"content": GOOD, "reasoning": "So the answer is sales? No."}),
    "ollama-tags": chat({"content": "<think>\nSales?\n</think>\n\n" + GOOD}),
    "llama.cpp": chat({"content": GOOD + "<|im_end|>"}, timings={"predicted_ms": 5.0}),
    "llama.cpp-harmony": chat(
        {"content": "<|channel|>analysis<|message|>Sales?<|end|><|start|>assistant<|channel|>final<|message|>" + GOOD}
    ),
    "mistral-parts": chat(
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "So the answer is sales?"}]},
                {"type": "text", "text": GOOD},
            ]
        }
    ),
    "anthropic-parts": chat(
        {
            "content": [
                {"type": "thinking", "thinking": "Sales?", "signature": "abc"},
                {"type": "text", "text": GOOD[:20]},
                {"type": "text", "text": GOOD[20:]},
            ]
        },
        "end_turn",
    ),
    "responses-parts": chat(
        {"content": [{"type": "reasoning", "text": "Sales?"}, {"type": "output_text", "text": GOOD, "annotations": []}]}
    ),
    "gemini-thought": chat({"content": [{"text": "Sales?", "thought": True}, {"text": GOOD}]}, "STOP"),
    "tgi": chat({"content": GOOD}, "eos_token"),
    "no-finish": chat({"content": GOOD}, None),
    "completions": {"model": "m", "choices": [{"index": 0, "text": " " + GOOD, "finish_reason": "stop"}]},
}


@pytest.mark.parametrize("server", ANSWERED)
def test_answers_are_found_and_thoughts_left_out(server):
    read = said(ANSWERED[server])
    assert (read.rationale, read.label, read.failure) == ("It wants money back.", "billing", None)


CALL = {"id": "c", "type": "function", "function": {"name": "answer", "arguments": '{"label": "billing"}'}}
FAILED = {
    "vllm-still-thinking": (
        chat({"content": None, "reasoning_content": "It asks for"}, "length"),
        ("cut off", "max_tokens reached; the model was still thinking"),
    ),
    "ollama-still-thinking": (
        chat({"content": "", "reasoning": "It asks for"}, "length"),
        ("cut off", "max_tokens reached; the model was still thinking"),
    ),
    "tags-still-thinking": (
        chat({"content": "<think>So the answer is sales?"}, "length"),
        ("cut off", "max_tokens reached; the model was still thinking"),
    ),
    "tags-never-closed": (
        chat({"content": "<think>So the answer is sales?"}),
        ("the reply is an unfinished thought", "stop"),
    ),
    "openai-hidden-thoughts": (
        chat({"content": ""}, "length"),
        ("cut off", "max_tokens reached; nothing was written"),
    ),
    "mistral-length": (
        chat({"content": "It wants"}, "model_length"),
        ("cut off", "max_tokens reached; no answer marker"),
    ),
    "anthropic-length": (
        chat({"content": "It wants"}, "max_tokens"),
        ("cut off", "max_tokens reached; no answer marker"),
    ),
    "gemini-length": (chat({}, "MAX_TOKENS"), ("cut off", "max_tokens reached; nothing was written")),
    "azure-filter": (chat({"content": None}, "content_filter"), ("refused", "content_filter")),
    "gemini-safety": (chat({"content": None}, "SAFETY"), ("refused", "content_filter")),
    "filtered-halfway": (chat({"content": "It wants"}, "content_filter"), ("refused", "content_filter")),
    "openai-refusal": (chat({"content": None, "refusal": "I can't help."}), ("refused", "refusal")),
    "refusal-part": (chat({"content": [{"type": "refusal", "refusal": "I can't."}]}), ("refused", "refusal")),
    "tool": (
        chat({"content": None, "tool_calls": [CALL]}, "tool_calls"),
        ("tool call", "the model called a tool instead of answering"),
    ),
    "function": (
        chat({"content": None, "function_call": CALL["function"]}, "function_call"),
        ("tool call", "the model called a tool instead of answering"),
    ),
    "null": (chat({"content": None}), ("empty reply", "stop")),
    "thoughts-only": (chat({"content": None, "reasoning_content": "It asks."}), ("empty reply", "thoughts: It asks.")),
}


@pytest.mark.parametrize("server", FAILED)
def test_what_is_no_answer_is_named(server):
    body, expected = FAILED[server]
    read = said(body)
    assert (read.rationale, read.label) == (None, None)
    assert (read.failure.reason, read.failure.detail) == expected


def test_a_tool_call_is_kept_in_the_failure():
    assert 'answer({"label": "billing"})' in said(FAILED["tool"][0]).failure.raw


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        ({"error": {"message": "Provider returned error", "code": 502}}, "server error", "Provider returned error"),
        (chat({"content": ""}, "error"), "server error", "the reply ended with an error"),
        (
            {
                "choices": [
                    {"message": {"content": ""}, "finish_reason": None, "error": {"code": 502, "message": "upstream"}}
                ]
            },
            "server error",
            "upstream",
        ),
        ([{"error": {"message": "x"}}], "wrong schema", "expected a JSON object; got list"),
        ({"choices": [{"message": {"content": 5}}]}, "wrong schema", "expected a string or a list of parts; got int"),
        ({"choices": [{"message": {"content": [5]}}]}, "wrong schema", "expected a part of a message; got int"),
        ({"choices": [{"delta": {"content": "x"}}]}, "wrong schema", "expected a message; got NoneType"),
        ({"choices": []}, "wrong schema", "expected a list of choices"),
    ],
)
def test_other_bodies_are_counted_failures(body, reason, detail):
    with pytest.raises(RequestFailedError) as failed:
        completion.read(body, key="k")
    assert failed.value.failure.reason == reason and detail in failed.value.failure.detail
    assert json.dumps(body)[:20] in failed.value.failure.raw


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}, Usage(9, 4)),
        ({"input_tokens": 9, "output_tokens": 4}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 113}, Usage(9, 104)),
        ({"prompt_tokens": 9}, None),
        ({"prompt_tokens": 9, "completion_tokens": -1}, None),
        (None, None),
    ],
)
def test_usage_by_any_name_and_with_thoughts(usage, expected):
    assert completion.read(chat({"content": GOOD}, usage=usage), key="k").usage == expected


def test_a_note_survives_the_store_and_old_replies_are_read():
    reply = completion.read(FAILED["tool"][0], key="k")
    assert type(reply).from_json("k", reply.to_json()).candidates == reply.candidates
    old = '{"choices":[["text","stop"]],"model":"m","usage":null,"date":"","seconds":0.0}'
    assert type(reply).from_json("k", old).candidates == (Candidate("text", "stop"),)


def test_labels_outside_the_known_ones_are_undecided():
    prompt, labels = templates.load("template"), ("billing", "technical", "sales")
    outside = Candidate("It wants money back. So the answer is accounts.")
    read = parsing.read_candidate(prompt, outside, RECORD, labels=labels)
    assert (read.rationale, read.label) == ("It wants money back.", None)
    assert read.failure.reason == "the answer is none of the labels"
    assert read.failure.detail == "got 'accounts'; the labels are billing, technical, sales"
    assert parsing.read_candidate(prompt, outside, RECORD).label == "accounts"
    spelled = Candidate("It wants money back. So the answer is **Billing**. Let me know!")
    assert parsing.read_candidate(prompt, spelled, RECORD, labels=labels).label == "billing"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("billing... no, sales.", None),
        ("billing. Wait. So the answer is sales.", None),
        ("billing.\nSo the answer is billing.", "billing"),
        ("billing. Actually, technical repairs nothing here.", "billing"),
        ("probably sales.", "sales"),
    ],
)
def test_a_reply_to_a_template_that_answers_twice_is_undecided(answer, label):
    prompt, labels = templates.load("template"), ("billing", "technical", "sales")
    read = parsing.read_text(prompt, f"It is so. So the answer is {answer}", labels=labels)
    assert (read.rationales, read.label) == (("It is so.",), label)
    assert read.undecided == (None if label else "another answer at a further marker, or a correction")
    free = parsing.read_text(prompt, "It is so. So the answer is spain. Hm. So the answer is france.")
    assert (free.label, free.undecided) == (None, "another answer at a further marker, or a correction")
