"""Pairs, their tests and the better one first; a comparison with itself finds nothing."""

import dataclasses
import itertools
import types

import numpy as np
import pytest
from scipy import stats

from distill.experiments.report import comparisons, findings, section_tables, sections
from distill.experiments.report.collect import ReportError
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed


def test_validation_selects(rates_analysis):
    found = rates_analysis[1].evidence
    means = {cell.label: np.mean(cell.scores("accuracy", "validation")) for cell in found.part.cells}
    assert comparisons.selected(found).label == max(means, key=means.get)


def test_a_setting_without_a_validation_score_is_not_selected():
    for higher, best in ((True, 0.6), (False, 0.4)):
        selection = {"metric": "loss", "higher_is_better": higher}
        run = types.SimpleNamespace(record={"selection": selection})
        cells = [
            types.SimpleNamespace(runs=[run], scores=lambda metric, split, found=found: found)
            for found in ([np.nan], [0.4, np.nan], [0.6])
        ]
        (one,) = max(cells, key=comparisons.on_validation).scores("loss", "validation")[:1]
        assert one == best


def test_the_reference_has_an_effective_lambda_and_rates_of_one(rates_analysis):
    assert comparisons.reference(rates_analysis[1].evidence).label == "task_tokens, rates 1:1"
    (head,) = comparisons.headlines(rates_analysis[1].evidence)
    assert head.name == "an effective λ of 1 (task_tokens, rates 1:1)"


def test_a_named_level_is_the_headline(rates_analysis, methods_analysis):
    found = rates_analysis[1].evidence
    axis = next(iter(found.part.axes))
    best = comparisons.selected(found)
    other = next(level for level in found.part.axes[axis] if level != best.values[axis])
    (head,) = comparisons.headlines(found, f"{axis}={other}")
    assert head.a is best and head.name == head.b.label
    assert head.b.values == best.values | {axis: other}
    found = methods_analysis[1].evidence
    names = [head.name for head in comparisons.headlines(found, "method=shuffled")]
    assert names == ["training without rationales (standard, TRAIN_ROWS 1000)"]


def test_of_settings_with_about_the_same_lambda_the_first_is_the_reference(monkeypatch):
    cells = [
        types.SimpleNamespace(values={"switch": name}, training=lambda _, lam=lam: lam)
        for name, lam in (("none", 1.002), ("all rationales", 1.0001), ("single", 9.5))
    ]
    monkeypatch.setattr(comparisons, "selected", lambda evidence: cells[2])
    part = types.SimpleNamespace(cells=cells, axes={"switch": ["none", "all rationales", "single"]})
    assert comparisons.reference(types.SimpleNamespace(part=part)) is cells[0]


def test_standard_training_with_all_else_equal_is_the_headline(methods_analysis):
    (head,) = comparisons.headlines(methods_analysis[1].evidence)
    assert (head.a.label, head.b.label) == ("step-by-step, TRAIN_ROWS 1000", "standard, TRAIN_ROWS 1000")


def test_a_pair_by_hand(methods_analysis):
    found = methods_analysis[1]
    assert len(found.family.comparisons) == 15 and found.family.rule == "all 15 pairs of settings"
    head = found.headlines[0]
    one = comparisons.oriented(found.family, head.a, head.b)
    correct = found.evidence.correct
    a, b = (np.stack([correct[run] for run in cell.runs]) for cell in (head.a, head.b))
    assert one.difference.value == pytest.approx(100 * (a.mean() - b.mean()))
    assert (one.only_a, one.only_b) == ((a & ~b).sum(), (~a & b).sum())
    per_seed = sorted(stats.binomtest(int((x & ~y).sum()), int((x ^ y).sum())).pvalue for x, y in zip(a, b))
    assert one.mcnemar == pytest.approx(min(1, per_seed[2] * 5 / 3))
    assert one.difference.low < one.difference.value < one.difference.high and one.difference.low > 0 and one.apart
    other = comparisons.oriented(found.family, head.b, head.a)
    assert other.difference.low == -one.difference.high and (other.only_a, other.only_b) == (one.only_b, one.only_a)
    assert all(each.difference.value >= 0 for each in found.family.comparisons)
    assert all(each.p_holm >= each.p for each in found.family.comparisons)


def test_choices_of_pairs(methods_analysis, rates_analysis):
    found = methods_analysis[1].evidence
    by_method = comparisons.compare(found, "method")
    assert {(c.a.values["TRAIN_ROWS"], c.b.values["TRAIN_ROWS"]) for c in by_method.comparisons} == {
        (n, n) for n in ("250", "500", "1000")
    }
    assert len(comparisons.compare(found, "best").comparisons) == 5
    assert len(rates_analysis[1].family.comparisons) == 11, "66 pairs are too many: the selected one against each other"
    for wrong in ("x", "best=x", "=250"):
        with pytest.raises(ReportError, match=f"AXIS=LEVEL with one of the axes method, TRAIN_ROWS; got '{wrong}'"):
            comparisons.compare(found, wrong)


def test_each_level_against_one(methods_analysis):
    found = methods_analysis[1].evidence
    family = comparisons.compare(found, "TRAIN_ROWS=250")
    sizes = sorted(tuple(sorted((c.a.values["TRAIN_ROWS"], c.b.values["TRAIN_ROWS"]))) for c in family.comparisons)
    # Two methods, two other sizes each; and the headline, which compares the methods at the selected size.
    assert sizes == [("1000", "1000"), ("1000", "250"), ("1000", "250"), ("250", "500"), ("250", "500")]
    assert family.rule.startswith("each level of TRAIN_ROWS against 250, with all other axes equal")
    with pytest.raises(ReportError, match="--compare=TRAIN_ROWS=7: TRAIN_ROWS has the levels "):
        comparisons.compare(found, "TRAIN_ROWS=7")


def test_equal_students_cannot_be_distinguished(tmp_path):
    random = np.random.default_rng(0)
    names = []
    for method, seed in itertools.product("ab", range(4)):
        names.append(synthetic.name(method=method, RANDOM_SEED=seed))
        correct = random.random(100) < 0.6
        synthetic.write_run(tmp_path / names[-1], correct, configuration={"FORM": method, "RANDOM_SEED": seed})
    synthetic.write_sweep(tmp_path, names)
    _, found = analysed(tmp_path)
    (one,) = found.family.comparisons
    assert not one.apart and one.difference.low < 0 < one.difference.high and found.family.cochran > 0.05


def test_one_seed_compares_students_and_not_settings(tmp_path):
    for method, correct in (("a", [True] * 12 + [False] * 3), ("b", [False] * 10 + [True] * 5)):
        synthetic.write_run(tmp_path / method, correct, configuration={"FORM": method})
    _, found = analysed(tmp_path)
    (one,) = found.family.comparisons
    assert (one.a.label, one.only_a, one.only_b, one.seeds) == ("a", 10, 3, 1)
    assert one.mcnemar == one.mcnemar_holm == pytest.approx(stats.binomtest(3, 13).pvalue)
    assert np.isnan(one.p) and not one.apart and not one.tested and not one.students_apart
    sentence = findings.verdict(found, one, "A", "B")
    assert sentence.startswith(
        "A and B are compared by one run of each, which compares two students, not two settings: +46.7 points ("
    )
    assert sentence.endswith(
        "the two students are not shown to differ (McNemar's p = 0.092). A statement about settings needs at least 3 seeds "
        "that both have."
    )
    clear = dataclasses.replace(one, mcnemar_holm=0.0005)
    text = findings.verdict(found, clear, "A", "B")
    assert "the two students differ (McNemar's p = 0.0005)" in text and "better" not in text
    blocks = section_tables.comparisons_blocks(found)
    assert "better" not in blocks[-1].rows[0][-2].text and blocks[-1].rows[0][-1] == "at least 3 seeds"
    assert "on 1 seed that all have, so it compares students)" in blocks[0].text
    tiles = sections.of(found, ())[0].blocks[0].tiles
    assert tiles[1][2] == "two students of one seed, not two settings"


def some_seeds(directory, later):
    """Six seeds of ``a`` and two of ``b``; the four students of ``a`` alone have ``later`` of 200 rows right."""
    for method, seed, right in [*(("a", s, 100 if s < 2 else later) for s in range(6)), ("b", 0, 130), ("b", 1, 130)]:
        correct = np.arange(200) < right
        folder = directory / f"{method}{seed}"
        synthetic.write_run(folder, correct, configuration={"FORM": method, "RANDOM_SEED": seed})
    return analysed(directory)[1]


def test_a_pair_names_its_shared_seeds_and_the_difference_of_the_means(tmp_path):
    found = some_seeds(tmp_path, later=120)
    (one,) = found.family.comparisons
    assert (one.seeds, one.partial, one.apart) == (2, True, True)
    assert one.difference.value == pytest.approx(15) and one.of_means == pytest.approx(65 - 680 / 12)
    text = findings.verdict(found, one, "B", "A")
    assert text.startswith("B is better than A: +15.0 points (")
    assert text.endswith(", on the 2 seeds that both have. The means shown, of 2 and 6 seeds, differ by +8.3 points.")
    table = section_tables.comparisons_blocks(found)[-1]
    row = dict(zip(table.headers, table.rows[0]))
    assert (row["shared seeds"], row["means shown differ by"]) == ("2 of 2 and 6", "+8.3 points")
    assert row["verdict"].text == "first is better" and "Means shown: those of all seeds of each setting." in table.note
    (_, tile, *_) = sections.of(found, ())[0].blocks[0].tiles
    assert "on the 2 seeds that both have; the means differ by " in tile[2]


def test_no_setting_is_better_against_the_means_of_all_seeds(tmp_path):
    found = some_seeds(tmp_path, later=180)
    (one,) = found.family.comparisons
    assert one.p_holm < 0.05 and one.of_means < 0 < one.difference.value and not one.apart
    text = findings.verdict(found, one, "B", "A")
    assert text.startswith("B and A cannot be distinguished: +15.0 points (")
    assert text.endswith("The means shown, of 2 and 6 seeds, differ by −11.7 points, in the other direction.")
    row = section_tables.comparisons_blocks(found)[-1].rows[0]
    assert (row[-2].text, row[-1]) == ("cannot be distinguished", "more shared seeds")


def test_other_seeds_are_paired_in_order(tmp_path):
    for method, seeds in (("a", (0, 1)), ("b", (7, 8))):
        for seed in seeds:
            synthetic.write_run(
                tmp_path / f"{method}{seed}",
                [True, method == "a", False],
                configuration={"FORM": method, "RANDOM_SEED": seed},
            )
    _, found = analysed(tmp_path)
    (one,) = found.family.comparisons
    assert one.seeds == 2 and not one.same_seeds


def no_spread(directory, *, judged):
    """Three seeds of two settings: one is right on all 8 rows, the other on none, or scores as much more in every seed."""
    for method, seed in itertools.product("ab", range(3)):
        folder = directory / f"{method}{seed}"
        synthetic.write_run(folder, [method == "a"] * 8, configuration={"FORM": method, "RANDOM_SEED": seed})
        if not judged:
            (folder / "predictions" / "test.jsonl").unlink()
    return analysed(directory)[1]


def test_where_nothing_varies_mcnemar_tests_rows_counted_in_each_seed_alone(tmp_path):
    found = no_spread(tmp_path, judged=True)
    (one,) = found.family.comparisons
    assert one.p == one.mcnemar == pytest.approx(3 / 2 * stats.binomtest(0, 8).pvalue)
    assert one.apart and not one.difference.known
    assert findings.verdict(found, one, "A", "B") == "A is better than B: +100.0 points, p = 0.012."


def test_without_spread_and_judged_rows_there_is_no_test(tmp_path):
    found = no_spread(tmp_path, judged=False)
    (one,) = found.family.comparisons
    assert not one.tested and not one.apart and not one.difference.known
    text = findings.verdict(found, one, "A", "B")
    assert text == "A differs from B by +100.0 points; no spread between 3 seeds, no test."
    table = section_tables.comparisons_blocks(found)[-1]
    assert (table.rows[0][-2].text, table.rows[0][-1]) == ("no test", "not known")
