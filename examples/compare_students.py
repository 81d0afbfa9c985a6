"""Evaluates two students on the same rows and compares them row by row.

Command, after two runs such as those of examples/train_on_your_rows.py:

    python examples/compare_students.py runs/first runs/second --rows=rows/test.jsonl

Cost: decoding only; 500 rows take some seconds on two CPU cores for the 0.2M-parameter student. Expect each student's
accuracy with its 95 % interval, the rows that only one of them answers correctly, and an exact sign test on those rows.
Two students that are equally good give a p-value above 0.05 in 95 of 100 comparisons.
"""

import argparse
import json
import math

import distill
from distill.tasks import metrics


def sign_test(first: int, second: int) -> float:
    """The two-sided p-value of a split as uneven as ``first`` to ``second`` where both are equally likely."""
    total = first + second
    tail = sum(math.comb(total, k) for k in range(min(first, second) + 1)) / 2**total
    return min(1.0, 2 * tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs=2, help="two model directories, or exported Hugging Face folders")
    parser.add_argument("--rows", default="rows/test.jsonl")
    parser.add_argument("--fields", type=json.loads, default={"input": "question", "label": "answer"}, help="as JSON")
    options = parser.parse_args()

    records = [record for record in distill.read(options.rows, fields=options.fields) if record.label is not None]
    right = []
    for path in options.students:
        student = distill.load(path)
        scores = distill.evaluate(student, records)
        low, high = scores["accuracy_low"], scores["accuracy_high"]
        print(f"{path}: accuracy {scores['accuracy']:.3f} (95 %: {low:.3f} to {high:.3f})")
        answers = student.answer([record.input for record in records])
        kind = student.description.answer
        right.append([metrics.same_answer(kind, r.label, a.text, r.choices) for r, a in zip(records, answers)])
    first = sum(a and not b for a, b in zip(*right))
    second = sum(b and not a for a, b in zip(*right))
    print(f"only the first is right: {first} rows; only the second: {second} rows; p = {sign_test(first, second):.3f}")


if __name__ == "__main__":
    main()
