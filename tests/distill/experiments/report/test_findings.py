"""Sentences and warnings follow from the numbers."""

import dataclasses
import json
import shutil

import numpy as np

from distill.experiments.report import findings, statistics
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed


def test_what_the_methods_show(methods_analysis, monkeypatch):
    text = "\n".join(findings.sentences(methods_analysis[1]))
    assert "Of 6 settings, validation selected step-by-step, TRAIN_ROWS 1000: test accuracy " in text
    assert "is better than training without rationales (standard, TRAIN_ROWS 1000): +" in text
    assert "after Holm's correction over 15 pairs." in text
    assert "step-by-step equals standard with all 1,000 rows" in text
    assert "The teacher answers" in text and "Before distillation the student scores 31.0 % on validation rows." in text
    assert findings.warnings(methods_analysis[1]) == []
    for number, run in enumerate(methods_analysis[1].part.runs):
        if number:
            monkeypatch.setitem(run.record["selection"], "step", run.record["training"]["steps"])
    (warned,) = findings.warnings(methods_analysis[1])
    assert warned == "In 29 of 30 runs, validation was best at the last step: more steps can change these results."


def test_what_the_rates_show(rates_analysis):
    collection, found = rates_analysis
    text = "\n".join(findings.sentences(found))
    assert "Best effective λ (all_tokens): " in text and "against λ = 1 by the fit" in text
    warned = findings.warnings(found, collection.unfinished)
    assert warned[1].startswith(
        "rates does not change the effective λ where NORMALIZER is task_tokens: it is 1 at all levels."
    )
    assert warned[0].startswith("The sweep is not complete: 1 waiting, 1 failed. Missing settings can change which")
    failed = [each for each in collection.unfinished if each.state == "failed"]
    assert findings.warnings(found, failed)[0] == "Not in these numbers: 1 failed."


def test_the_best_rates_are_named_with_their_interval(rates_analysis):
    best = rates_analysis[1].optima[0]
    closed = dataclasses.replace(best, lam=statistics.Interval(1.2, 0.6, 4.8))
    assert findings.knob_text(closed) == ", at LABEL_RATE:RATIONALE_RATE 2:1 (4:1 to 1:2)"
    assert "(beyond 8:1 to " in findings.knob_text(best)


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
    assert not any("does not change the effective λ" in text for text in findings.warnings(found))
    assert [head.name for head in found.headlines] == ["an effective λ of 1 (rates 2:1, LAMBDA 1.0)"]


def test_no_difference_is_said_with_what_would_be_needed(methods_analysis):
    found = methods_analysis[1]
    pair = dataclasses.replace(
        found.family.comparisons[0], p_holm=0.4, difference=statistics.Interval(1.2, -0.5, 2.9),
        needed=statistics.Needed(1.2, 12, 900, 2.0),
    )  # fmt: skip
    text = findings.verdict(found, pair, "A", "B").replace("\u00a0", " ")
    assert text == (
        "A and B cannot be distinguished: +1.2 points (−0.5 to +2.9), p = 0.40 after Holm's correction over 15 pairs. A "
        "difference of 1.2 points needs about 12 seeds of each or 900 test rows (power 0.8, "
        "corrected for 15 pairs)."
    )
    one = dataclasses.replace(pair, seeds=1)
    assert "train at least 3" in findings.verdict(found, one, "A", "B")


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
    warned = findings.warnings(found)
    assert warned[0].startswith("2 of 2 settings have fewer than 3 seeds (the least: 2).")
    assert warned[1] == "LAMBDA changes nothing here: all levels predict the same."


def test_other_machines_and_revisions_are_warned_of(tmp_path):
    synthetic.write_run(tmp_path / "a", [True, False], configuration={"RANDOM_SEED": 0})
    content = synthetic.record({}, {}, {}, (0.5, 0.5))
    environment = content["environment"] | {"device_kind": "NVIDIA H100"}
    code = content["code"] | {"revision": "fff", "modified": True}
    synthetic.write_run(
        tmp_path / "b", [True, True], configuration={"RANDOM_SEED": 1}, environment=environment, code=code
    )
    warned = "\n".join(findings.warnings(analysed(tmp_path)[1]))
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
    warned = findings.warnings(analysed(tmp_path)[1])
    assert warned[0].startswith("All settings score 0 on the test rows: no student has learned the task")
    for seed in range(5):
        shutil.rmtree(tmp_path / synthetic.name(LAMBDA=1.0, RANDOM_SEED=seed))
        synthetic.write_run(
            tmp_path / synthetic.name(LAMBDA=1.0, RANDOM_SEED=seed),
            np.arange(20) % 2 == 0,
            configuration={"FORM": "paired", "LAMBDA": 1.0, "RANDOM_SEED": seed},
        )
    warned = findings.warnings(analysed(tmp_path)[1])
    assert warned[0].startswith("LAMBDA 0.3 scores 0 in all runs: look at its predictions")


def test_two_seeds_give_no_interval_and_constant_answers_are_named(tmp_path):
    for form, scores in (("label", ([False] * 5, [True] + [False] * 4)), ("paired", ([True] * 5, [False] * 5))):
        for seed, correct in enumerate(scores):
            synthetic.write_run(tmp_path / f"{form}{seed}", correct, configuration={"FORM": form, "RANDOM_SEED": seed})
            file = tmp_path / f"{form}{seed}" / "predictions" / "test.jsonl"
            rows = [{**json.loads(line), "prediction": "7"} for line in file.read_text().splitlines()]
            if form == "paired":
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = analysed(tmp_path)[1]
    paired = next(cell for cell in found.part.cells if cell.macro("FORM") == "paired")
    assert findings.spread(found, found.evidence.cell_interval(paired)) == "50.0 % (too few seeds for an interval)"
    (pair,) = found.family.comparisons
    assert (pair.difference.low, pair.difference.high) == (-100.0, 100.0)
    assert findings.gap(found, pair.difference) == "+40.0 points (too few seeds for an interval)"
    assert any(
        text.startswith("2 of 4 runs give one answer to all test rows ('7')") for text in findings.warnings(found)
    )
