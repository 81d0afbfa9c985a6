"""Sentences and warnings follow from the numbers."""

import dataclasses
import json

import numpy as np

from distill.experiments.report import findings, limits, statistics
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed


def test_what_the_methods_show(methods_analysis, monkeypatch):
    text = "\n".join(findings.sentences(methods_analysis[1]))
    assert "Of 6 settings, validation selected step-by-step, TRAIN_ROWS 1000: test accuracy " in text
    assert "is better than training without rationales (standard, TRAIN_ROWS 1000): +" in text
    assert "after Holm's correction over 15 pairs." in text
    assert "step-by-step equals standard with all 1,000 rows" in text
    assert "The teacher answers" in text and "Before distillation the student scores 31.0 % on validation rows." in text
    assert limits.warnings(methods_analysis[1]) == []
    for number, run in enumerate(methods_analysis[1].part.runs):
        if number:
            monkeypatch.setitem(run.record["selection"], "step", run.record["training"]["steps"])
    (warned,) = limits.warnings(methods_analysis[1])
    assert warned == "In 29 of 30 runs, validation was best at the last step: more steps can change these results."


def test_a_fit_that_opens_upwards_names_both_ends_unless_its_minimum_is_outside(rates_analysis):
    found = rates_analysis[1]
    optimum = found.optima[0]
    curve = dataclasses.replace(optimum.fit, coefficients=np.array([0.4, 0.0, 0.05]), centre=0.0, low=-1.0, high=1.0)
    open_ = dataclasses.replace(optimum, bounded=False, fit=curve, lam=statistics.Interval(0.0))
    text = findings.optimum_sentence(found, open_)
    assert "the fit has its lowest score, not its highest, inside their range" in text
    assert "so the best λ may be below 0.37 or above 2.7." in text
    rising = dataclasses.replace(open_, fit=dataclasses.replace(curve, coefficients=np.array([0.4, -0.2, 0.05])))
    assert "the fit still rises towards values below 0.37." in findings.optimum_sentence(found, rising)


def test_what_the_rates_show(rates_analysis):
    collection, found = rates_analysis
    text = "\n".join(findings.sentences(found))
    assert "Best effective λ (all_tokens): " in text and "against λ = 1 by the fit" in text
    warned = limits.warnings(found, collection.unfinished)
    assert warned[1].startswith(
        "rates does not change the effective λ where NORMALIZER is task_tokens: it is 1 at all levels."
    )
    assert warned[0].startswith("The sweep is not complete: 1 waiting, 1 failed. Missing settings can change which")
    failed = [each for each in collection.unfinished if each.state == "failed"]
    assert limits.warnings(found, failed)[0] == "Not in these numbers: 1 failed."


def test_the_best_rates_are_named_with_their_interval(rates_analysis):
    best = rates_analysis[1].optima[0]
    closed = dataclasses.replace(best, lam=statistics.Interval(1.2, 0.6, 4.8))
    assert findings.knob_text(closed) == ", at LABEL_RATE:RATIONALE_RATE 2:1 (4:1 to 1:2)"
    assert "(beyond 8:1 to " in findings.knob_text(best)
    nowhere = dataclasses.replace(best, lam=statistics.Interval(1.2, 0.0, float("inf")))
    assert findings.knob_text(nowhere) == ", at LABEL_RATE:RATIONALE_RATE 2:1"
    text = findings.optimum_sentence(rates_analysis[1], nowhere)
    assert "1.2 (95 % interval not bounded by the data), at LABEL_RATE:RATIONALE_RATE 2:1, fitted" in text


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
    same = dataclasses.replace(pair, difference=statistics.Interval(100.0))
    assert findings.verdict(found, same, "A", "B").endswith("it is not known how many seeds or rows distinguish them.")
    one = dataclasses.replace(pair, seeds=1)
    assert "needs at least 3 seeds that both have." in findings.verdict(found, one, "A", "B")


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
    assert any(text.startswith("2 of 4 runs give one answer to all test rows ('7')") for text in limits.warnings(found))
