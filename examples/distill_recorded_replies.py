"""Distills a teacher's recorded replies: parses them, trains on the teacher's answers and reasons, and scores the student.

Command:

    python examples/distill_recorded_replies.py --directory=runs/recorded

Cost: 800 steps of a 0.2M-parameter student, about a minute on two idle CPU cores. The replies are written by the script:
a programmatic teacher answers questions about a small world, and one in ten of its answers is wrong. Expect the teacher's
accuracy near 0.9. The student never sees a gold label in training; it is scored on gold labels.

For replies of a real teacher, give --replies: JSON lines with `question`, `choices` and `reply`, as `distill extract` and
most clients record them. --parser names how the reply is read (distill.tasks.parsers.NAMES).
"""

import argparse
import json
import pathlib

import distill
from distill.experiments import example
from distill.tasks import metrics

FIELDS = {"input": "question", "choices": "choices", "reply": "reply"}


def record_replies(folder: pathlib.Path, rows: int) -> pathlib.Path:
    """Writes replies of a programmatic teacher, a test set with gold labels, and a word vocabulary."""
    files = example.files(rows)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocabulary.model").write_bytes(files[example.VOCABULARY])
    for split in ("train", "test"):
        with (folder / f"{split}.jsonl").open("w") as file:
            for number, line in enumerate(files[f"{split}.jsonl"].decode().splitlines()):
                row = json.loads(line)
                choices = row["question"].partition("?")[2].split()
                said = row["answer"] if number % 10 else next(one for one in choices if one != row["answer"])
                written = {"question": row["question"], "choices": choices, "answer": row["answer"]}
                reply = f"{row['why']} So the answer is {said}."
                file.write(json.dumps(written | ({"reply": reply} if split == "train" else {})) + "\n")
    return folder / "train.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", default="runs/recorded", help="model directory; the rows go to its sibling")
    parser.add_argument("--replies", type=pathlib.Path, help="recorded replies; default: made by the script")
    parser.add_argument("--parser", default="cqa")
    parser.add_argument("--rows", type=int, default=6000, help="replies that the script makes")
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args()

    folder = pathlib.Path(f"{options.directory}-rows")
    made = record_replies(folder, options.rows)
    replies = options.replies or made

    # The parsed replies, before anything is trained.
    records = distill.read(replies, fields=FIELDS, parser=options.parser)
    print(f"{len(records)} replies, {sum(record.llm_label is not None for record in records)} with an answer")
    if options.replies is None:
        gold = distill.read(replies, fields={**FIELDS, "label": "answer"}, parser=options.parser)
        print(f"teacher accuracy: {metrics.teacher_accuracy(gold, 'choice')['teacher_accuracy']:.3f}")

    student = distill.train(
        records,
        directory=options.directory,
        answer="choice",
        model="demo",
        vocabulary=folder / "vocabulary.model",
        steps=options.steps,
        batch_size=32,
        learning_rate=1e-2,
        lengths={"inputs": 32, "targets": 32},
        max_answer_length=3,
        settings={"LABEL_SOURCE": "teacher"},
    )
    scores = distill.evaluate(
        student, folder / "test.jsonl", fields={"input": "question", "choices": "choices", "label": "answer"}
    )
    low, high = scores["accuracy_low"], scores["accuracy_high"]
    print(f"student accuracy on gold labels: {scores['accuracy']:.3f} (95 %: {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
