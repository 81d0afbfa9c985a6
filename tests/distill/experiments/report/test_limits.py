"""Warnings follow from the numbers."""

import json
import shutil

import numpy as np

from distill.experiments.report import findings, limits, proposals
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed


def test_rates_beside_lambda_are_no_idle_axis_and_have_a_baseline_at_their_rate(tmp_path):
    """README's grid: how often each task is drawn, and how much it weighs."""
    random, names = np.random.default_rng(3), []
    for labels, rationales in ((2, 1), (1, 2)):
        for lam in (0.3, 1.0):
            for seed in range(2):
                names.append(synthetic.name(rates=f"{labels}:{rationales}", LAMBDA=lam, RANDOM_SEED=seed))
                right = random.random(60) < (0.9 if labels == 2 and lam < 1 else 0.4)
                synthetic.write_run(
                    tmp_path / names[-1], right, training={"lambda": lam},
                    configuration={
                        "FORM": "mixed", "NORMALIZER": "task_tokens", "LABEL_RATE": labels, "RATIONALE_RATE": rationales,
                        "LAMBDA": lam, "RANDOM_SEED": seed,
                    },
                )  # fmt: skip
    synthetic.write_sweep(tmp_path, names)
    found = analysed(tmp_path)[1]
    assert not any("does not change the effective λ" in text for text in limits.warnings(found))
    assert [head.name for head in found.headlines] == ["an effective λ of 1 (rates 2:1, LAMBDA 1.0)"]


def test_settings_that_were_trained_on_other_rows_are_warned_of(tmp_path):
    for lam in (0.1, 1.0):
        synthetic.write_run(
            tmp_path / f"r{lam}", [True, False], configuration={"LAMBDA": lam}, fingerprints={"train": f"rows{lam}"}
        )
    warned = limits.warnings(analysed(tmp_path)[1])
    assert any(text.startswith("LAMBDA 1.0 was trained on other rows than LAMBDA 0.1: the files") for text in warned)


def test_few_seeds_and_idle_axes_are_warned_of(tmp_path):
    random = np.random.default_rng(0)
    names = []
    for lam in (0.1, 1.0):
        for seed in (0, 1):
            names.append(synthetic.name(LAMBDA=lam, RANDOM_SEED=seed))
            correct = np.random.default_rng(seed).random(30) < 0.5  # the same at every λ
            synthetic.write_run(
                tmp_path / names[-1], correct, training={"lambda": None},
                configuration={"FORM": "label", "LAMBDA": lam, "RANDOM_SEED": seed},
            )  # fmt: skip
    synthetic.write_sweep(tmp_path, names)
    del random
    _, found = analysed(tmp_path)
    warned = limits.warnings(found)
    assert warned[0].startswith("2 of 2 settings have fewer than 3 seeds (the least: 2).")
    assert warned[2] == "LAMBDA changes no test score here: all levels are right on the same rows."


def test_other_machines_and_revisions_are_warned_of(tmp_path):
    synthetic.write_run(tmp_path / "a", [True, False], configuration={"RANDOM_SEED": 0})
    content = synthetic.record({}, {}, {}, (0.5, 0.5))
    environment = content["environment"] | {"device_kind": "NVIDIA H100"}
    code = content["code"] | {"revision": "fff", "modified": True}
    synthetic.write_run(
        tmp_path / "b", [True, True], configuration={"RANDOM_SEED": 1}, environment=environment, code=code
    )
    warned = "\n".join(limits.warnings(analysed(tmp_path)[1]))
    assert (
        "different devices (NVIDIA H100, TPU v5 lite)" in warned
        and "2 revisions" in warned
        and "with changes" in warned
    )


def test_students_that_learned_nothing_are_named_first(tmp_path):
    for lam in (0.3, 1.0):
        for seed in range(5):
            synthetic.write_run(
                tmp_path / synthetic.name(LAMBDA=lam, RANDOM_SEED=seed),
                np.zeros(20, bool),
                configuration={"FORM": "paired", "LAMBDA": lam, "RANDOM_SEED": seed},
            )
    warned = limits.warnings(analysed(tmp_path)[1])
    assert warned[0].startswith("All settings score 0 on the test rows: no student has learned the task")
    nothing = analysed(tmp_path)[1]
    assert nothing.nothing_learned and not proposals.next_sentences(nothing)
    (found,) = findings.sentences(nothing)
    assert found.startswith("No student has learned the task")
    for seed in range(5):
        shutil.rmtree(tmp_path / synthetic.name(LAMBDA=1.0, RANDOM_SEED=seed))
        synthetic.write_run(
            tmp_path / synthetic.name(LAMBDA=1.0, RANDOM_SEED=seed),
            np.arange(20) % 2 == 0,
            configuration={"FORM": "paired", "LAMBDA": 1.0, "RANDOM_SEED": seed},
        )
    warned = limits.warnings(analysed(tmp_path)[1])
    assert warned[0].startswith("LAMBDA 0.3 scores 0 in all runs: look at its predictions")
    assert len(findings.sentences(analysed(tmp_path)[1])) > 1


def test_other_training_rows_and_few_validation_rows_are_warned_of(tmp_path):
    for seed in range(3):
        other = {"fingerprints": {"train": "new"}} if seed == 2 else {}
        synthetic.write_run(tmp_path / str(seed), [True] * 25, configuration={"RANDOM_SEED": seed}, **other)
    warned = limits.warnings(analysed(tmp_path)[1])
    assert any(
        text.startswith("Runs of one setting were trained on different rows")
        and "(train100 in 2, new in 1 runs)" in text
        for text in warned
    )
    assert "Validation has 25 rows, so one answer is 4.0 points: what it selects can be chance." in warned


def test_a_run_that_validated_once_is_not_best_at_the_last_step(tmp_path):
    made = synthetic.write_run(tmp_path / "one", [True, False], configuration={}, before=0.1)
    record = json.loads((made / "record.json").read_text())
    record["selection"]["step"] = record["training"]["steps"]
    (made / "record.json").write_text(json.dumps(record))
    warned = "In 1 of 1 runs, validation was best at the last step: more steps can change these results."
    assert warned in limits.warnings(analysed(tmp_path)[1])
    lines = (made / "evaluations.jsonl").read_text().splitlines()
    (made / "evaluations.jsonl").write_text("\n".join((lines[0], *lines[-2:])))
    assert not any("last step" in text for text in limits.warnings(analysed(tmp_path)[1]))
