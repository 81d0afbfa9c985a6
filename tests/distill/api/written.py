"""Rows and arguments of tiny runs for the tests of the Python interface."""

from distill.model.network import T5Config

TINY = T5Config(384, 16, 2, 8, 32, 1, 1)
FIELDS = {"input": "question", "rationale": "why", "label": "answer"}
LENGTHS = {"inputs": 64, "targets": 64}


def sums(number, start=0):
    return [
        {
            "question": f"{i % 7} and {i // 7 % 5}?",
            "why": f"{i % 7} and {i // 7 % 5}.",
            "answer": str(i % 7 + i // 7 % 5),
        }
        for i in range(start, start + number)
    ]


def arguments(directory, **changes):
    return {
        "model": TINY,
        "vocabulary": "bytes",
        "fields": FIELDS,
        "directory": directory,
        "steps": 4,
        "batch_size": 8,
        "lengths": LENGTHS,
        "max_answer_length": 4,
        "eval_period": 4,
        "quiet": True,
    } | changes
