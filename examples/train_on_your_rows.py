"""Trains a student on your own rows and answers with it.

Command, on the rows that `distill example --output=rows` writes:

    distill example --output=rows
    python examples/train_on_your_rows.py --rows=rows --directory=runs/mine

Cost: 800 steps of a 0.2M-parameter student, about a minute on two idle CPU cores. Expect a test accuracy of about 0.98
(guessing gives 0.22), as for gin/recipes/quickstart.gin, whose settings these are.

For your own rows, change FIELDS to the names in your files, and replace model, vocabulary and optimizer by a pretrained
student: model="t5_1_1_small", initial="google/t5-v1_1-small".
"""

import argparse
import pathlib

import distill

FIELDS = {"input": "question", "rationale": "why", "label": "answer"}


def optimizer_settings(steps: int) -> dict:
    """AdamW with linear decay for a student that starts from random parameters."""
    return {
        "EMA_DECAY": 0.99,
        "OPTIMIZER": "@optimizers.adamw()",
        "optimizers.adamw.weight_decay": 0.03,
        "optimizers.adamw.b2": 0.99,
        "optimizers.adamw.relative": True,
        "LEARNING_RATE": "@optimizers.linear_decay()",
        "optimizers.linear_decay.peak": 2e-2,
        "optimizers.linear_decay.steps": steps,
        "optimizers.linear_decay.warmup_steps": min(50, steps // 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=pathlib.Path, default=pathlib.Path("rows"), help="folder of the rows")
    parser.add_argument("--directory", default="runs/mine", help="model directory")
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args()

    student = distill.train(
        options.rows / "train.jsonl",
        validation=options.rows / "validation.jsonl",
        test=options.rows / "test.jsonl",
        fields=FIELDS,
        model="demo",
        vocabulary=options.rows / "vocabulary.model",
        directory=options.directory,
        steps=options.steps,
        batch_size=32,
        lengths={"inputs": 32, "targets": 32},
        max_answer_length=3,
        settings=optimizer_settings(options.steps),
    )
    print(student)
    print(f"test accuracy: {student.result['test']['accuracy']:.3f}")
    question = "what can fly and dive ? sailboats beetles ducks scarves"
    [answer] = student.answer([question], rationale=True)
    print(f"{question} -> {answer.text!r} (score {answer.score:.2f}), because {answer.rationale!r}")


if __name__ == "__main__":
    main()
