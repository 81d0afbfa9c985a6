"""Options are checked before any run is read."""

import json

import pytest

from distill.experiments.report import findings, sections
from distill.experiments.report.analysis import Options
from distill.experiments.report.collect import ReportError
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed


def test_a_price_is_a_number():
    with pytest.raises(ValueError, match="--price_per_chip_hour must be a number of at least 0; got nan"):
        Options(price_per_chip_hour=float("nan"))


def test_of_losses_the_lowest_is_the_best(tmp_path):
    """A loss below 1 is no share; the setting with the lowest one is selected, better and alone on the front."""
    names = []
    for size, loss, hours in ((100, 0.9, 4.0), (200, 0.4, 2.0), (300, 0.6, 3.0)):
        for seed in range(3):
            names.append(synthetic.name(TRAIN_ROWS=size, RANDOM_SEED=seed))
            scores = {"loss": loss + 0.001 * (seed * size // 100 % 3)}
            synthetic.write_run(
                tmp_path / names[-1],
                [True] * 20,
                configuration={"FORM": "spans", "TRAIN_ROWS": size, "RANDOM_SEED": seed, "MODEL_DIR": names[-1]},
                train_rows=size,
                training={"lambda": size / 50, "flops": 1e15 * hours, "chip_seconds": 3600 * hours + seed},
            )
            path = tmp_path / names[-1] / "record.json"
            selection = {"split": "validation", "metric": "loss", "step": 300, "value": loss, "higher_is_better": False}
            written = json.loads(path.read_text()) | {"selection": selection, "validation": scores, "test": scores}
            path.write_text(json.dumps(written))
    synthetic.write_sweep(tmp_path, names)
    found = analysed(tmp_path)[1]
    assert found.selected.values["TRAIN_ROWS"] == "200" and found.evidence.scale == 1.0
    assert [(each.a.values["TRAIN_ROWS"], each.b.values["TRAIN_ROWS"]) for each in found.family.comparisons] == [
        ("200", "100"), ("300", "100"), ("200", "300")
    ]  # fmt: skip
    assert all(each.difference.value < 0 and each.apart for each in found.family.comparisons)
    (sentence,) = (text for text in findings.sentences(found) if "better" in text or "worse" in text)
    assert sentence.startswith("TRAIN_ROWS 200 is better than the runner-up on validation (TRAIN_ROWS 300)")
    assert [each.cell.values["TRAIN_ROWS"] for each in found.costs.front] == ["200"]
    assert [each.cell.values["TRAIN_ROWS"] for each in found.costs.time_front] == ["200"]
    assert not (found.optima or found.unfitted or found.shares)
    assert [cell.values["TRAIN_ROWS"] for cell in sections.shown_cells(found)] == ["100", "200", "300"]


def test_the_metric_is_the_one_that_selected(methods_analysis, methods):
    assert methods_analysis[1].evidence.metric == "accuracy"
    with pytest.raises(ReportError, match="no test metric 'bleu'"):
        analysed(methods, metric="bleu")
