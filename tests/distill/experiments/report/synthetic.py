"""Writes run folders as training leaves them, with scores drawn from a model whose truth the tests know."""

import json
import math
import pathlib

import numpy as np

SENTENCE = "which of these has more legs than a table and fewer than a crab if the night is dark"
WORDS = tuple(SENTENCE.split())


def record(configuration, data, training, scores, **changes):
    """A record of the form that training writes."""
    content = {
        "format": 1,
        "configuration": configuration,
        "data": data,
        "code": {
            "version": "2.0.0", "revision": "0123456789abcdef0123", "modified": False,
            "versions": {"jax": "0.8.1", "flax": "0.12.1"},
        },
        "environment": {
            "host": "host-a", "processor": "AMD EPYC", "device_kind": "TPU v5 lite", "devices": 4, "processes": 1,
            "python": "3.11.9", "xla_flags": "",
        },
        "training": {
            "lambda_of_totals": None, "steps": 400, "examples": 12800, "tokens": 500_000, "padding_share": 0.2,
            "lambda": 1.0, "flops": 3e15,
            "flops_per_step": 7.5e12,
            "seconds": 600.0, "chip_seconds": 2400.0, "peak_memory_bytes": 2**30,
            "parameters": 60_500_000, "attempts": 1, **training,
        },
        "selection": {
            "split": "validation", "metric": "accuracy", "step": 300, "value": scores[0], "higher_is_better": True,
        },
        "validation": {"accuracy": scores[0]},
        "test": {"accuracy": scores[1]},
    }  # fmt: skip
    for name, value in changes.items():
        content[name] = value
    return content


def rows(number=200, seed=0, teacher=0.75, choices=("yes", "no")):
    """Test rows with input, target, the teacher's answer and its rationale."""
    random = np.random.default_rng(seed)
    out = []
    for n in range(number):
        target = choices[n % len(choices)]
        right = random.random() < teacher
        said = target if right else choices[(n + 1) % len(choices)]
        rationale = " ".join(random.choice(WORDS, size=8))
        rationale += f" so it is {said}." if n % 3 == 0 else "."
        text = " ".join(random.choice(WORDS, size=int(random.integers(5, 40)))) + "?"
        out.append({"id": f"row-{n}", "input": text, "target": target, "rationale": rationale, "teacher": said})
    return out


def write_run(
    directory,
    correct,
    *,
    configuration,
    table=None,
    validation=None,
    training=None,
    train_rows=1000,
    fingerprints=None,
    before=None,
    **changes,
):
    """Writes one complete run; ``correct`` says which test rows it has right."""
    directory = pathlib.Path(directory)
    table = rows(len(correct)) if table is None else table
    (directory / "predictions").mkdir(parents=True)
    score = float(np.mean(correct))
    validation = score if validation is None else validation
    prints = {"train": f"train{train_rows}", "validation": "valid", "test": "test0", **(fingerprints or {})}
    data = {
        split: {"fingerprint": name, "rows": len(table) if split != "train" else train_rows}
        for split, name in prints.items()
    }
    content = record(configuration, data, training or {}, (validation, score), **changes)
    (directory / "record.json").write_text(json.dumps(content))
    lines = []
    for row, right in zip(table, correct):
        wrong = "no" if row["target"] == "yes" else "yes"
        lines.append(json.dumps({**row, "prediction": row["target"] if right else wrong, "correct": bool(right)}))
    (directory / "predictions" / "test.jsonl").write_text("\n".join(lines) + "\n")
    history = [] if before is None else [{"split": "validation", "step": 0, "accuracy": before}]
    history += [
        {"split": "validation", "step": step, "accuracy": validation * (1 - math.exp(-step / 100))}
        for step in (100, 200, 300, 400)
    ]
    history.append({"split": "test", "step": 300, "accuracy": score})
    (directory / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    result = {"test": {"accuracy": score}, "step": 400, "seconds": 600.0, "best": validation, "best_step": 300}
    (directory / "result.json").write_text(json.dumps(result))
    return directory


def answers(skill, difficulty, random, seed_effect=0.0):
    """Which rows a student has right: each with the probability of its skill against the row's difficulty."""
    logits = skill + seed_effect - difficulty
    return random.random(len(difficulty)) < 1 / (1 + np.exp(-logits))


def write_sweep(directory, runs, failed=None, waiting=()):
    """The plan beside a sweep's runs, as ``distill sweep`` writes it."""
    directory = pathlib.Path(directory)
    plan = {}
    for name in (*runs, *(failed or {}), *waiting):
        values = dict(part.split("-", 1) for part in name.split("__"))
        values = {axis: level.replace("_", ":") if axis == "rates" else level for axis, level in values.items()}
        plan[name] = {"name": name, "values": values, "numbers": {}, "gin_files": [], "bindings": []}
    (directory / "sweep.json").write_text(json.dumps({"format": 2, "runs": plan}))
    for name, error in (failed or {}).items():
        (directory / name).mkdir()
        (directory / name / "failure.json").write_text(json.dumps({"error": error, "attempts": 1}))


def name(**axes):
    """The folder's name of a point of a grid."""
    return "__".join(f"{axis}-{str(level).replace(':', '_').replace(' ', '_')}" for axis, level in axes.items())


def methods(directory, *, seeds=5, number=300, gain=0.8, sizes=(250, 500, 1000), **more):
    """A sweep of two methods and several amounts of data; step-by-step is better by ``gain`` in log odds."""
    random = np.random.default_rng(1)
    difficulty = random.normal(0, 1.2, number)
    table = rows(number)
    names = []
    for method, form, bonus in (("standard", "label", 0.0), ("step-by-step", "paired", gain)):
        for size in sizes:
            for seed in range(seeds):
                names.append(name(method=method, TRAIN_ROWS=size, RANDOM_SEED=seed))
                skill = bonus + 0.9 * math.log2(size / 500)
                effect = np.random.default_rng(100 + seed).normal(0, 0.12)
                training = {
                    "lambda": 1.0 if form == "paired" else 0.0,
                    "chip_seconds": (2400.0 if form == "paired" else 1100.0) + seed,
                    "flops": 3e15 if form == "paired" else 1.1e15,
                }  # fmt: skip
                write_run(
                    pathlib.Path(directory) / names[-1], answers(skill, difficulty, random, effect), table=table,
                    train_rows=size, training=training, before=0.31,
                    configuration={"FORM": form, "TRAIN_ROWS": size, "RANDOM_SEED": seed, "MODEL_DIR": names[-1]}, **more,
                )  # fmt: skip
    write_sweep(directory, names)
    return pathlib.Path(directory)


def rates(directory, *, seeds=5, number=300, best=0.4):
    """A sweep of mixture rates and normalisers: accuracy peaks at an effective λ of ``best``; task_tokens keeps λ at 1."""
    random = np.random.default_rng(2)
    difficulty = random.normal(0, 1.2, number)
    table = rows(number)
    names = []
    for normalizer in ("task_tokens", "all_tokens"):
        for labels, rationales in ((1, 4), (1, 2), (1, 1), (2, 1), (4, 1), (8, 1)):
            lam = 1.0 if normalizer == "task_tokens" else 2.4 * rationales / labels
            for seed in range(seeds):
                names.append(name(NORMALIZER=normalizer, rates=f"{labels}:{rationales}", RANDOM_SEED=seed))
                skill = 1.1 - 0.28 * math.log(lam / best) ** 2
                spread = 0.05 + 0.25 * abs(math.log(lam / best)) / 3
                correct = answers(skill, difficulty, random, random.normal(0, spread))
                write_run(
                    pathlib.Path(directory) / names[-1], correct, table=table, training={"lambda": lam * (1 + 1e-4 * seed)},
                    validation=float(np.clip(correct.mean() + random.normal(0, 0.008), 0, 1)),
                    configuration={
                        "FORM": "mixed", "NORMALIZER": normalizer, "LABEL_RATE": labels, "RATIONALE_RATE": rationales,
                        "LAMBDA": 1.0, "RANDOM_SEED": seed, "MODEL_DIR": names[-1],
                    },
                )  # fmt: skip
    failed = {name(NORMALIZER="all_tokens", rates="16:1", RANDOM_SEED=0): "loss is not finite at step 120"}
    write_sweep(directory, names, failed, [name(NORMALIZER="all_tokens", rates="16:1", RANDOM_SEED=1)])
    return pathlib.Path(directory)
