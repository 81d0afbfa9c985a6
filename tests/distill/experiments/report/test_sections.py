"""The sections of a report, their order and contents."""

import dataclasses
import re

from distill.experiments.report import sections
from distill.experiments.report.blocks import Chart, Examples, Table
from distill.experiments.report.optimum import Weaknesses


def test_sections_of_the_methods(methods_analysis):
    collection, found = methods_analysis
    made = sections.of(found, collection.unfinished)
    assert [section.key for section in made] == [
        "findings", "curves", "answers", "comparisons", "cost", "rows", "training", "configuration", "provenance",
    ]  # fmt: skip
    by_key = {section.key: section.blocks for section in made}
    charts = [block for block in by_key["curves"] if isinstance(block, Chart)]
    assert [chart.x for chart in charts] == ["training rows", "FLOPs of a run", "chip-hours of a run"]
    assert [name.rsplit(" ", 2)[0] for name, _ in charts[0].levels] == ["teacher", "before distillation (validation)"]
    (table,) = [block for block in by_key["comparisons"] if isinstance(block, Table)]
    assert len(table.rows) == 15 and table.headers.index("difference (95 % interval)") < table.headers.index("p")
    assert any(isinstance(block, Examples) for block in by_key["rows"])
    costs = next(block for block in by_key["cost"] if isinstance(block, Table))
    assert "price" in costs.headers


def test_no_step_0_is_said_with_the_way_to_get_it(rates_analysis):
    collection, found = rates_analysis
    curves = next(section for section in sections.of(found, collection.unfinished) if section.key == "curves")
    texts = [block.text for block in curves.blocks if hasattr(block, "text")]
    assert sections.NO_START in texts and "--gin.TRAIN_STEPS=1" in sections.NO_START


def test_failed_runs_have_a_section(rates_analysis):
    section = sections.unfinished_section(rates_analysis[0].unfinished)
    assert [row[2] for row in section.blocks[0].rows] == ["loss is not finite at step 120", "–"]
    assert "failure.json" in section.blocks[0].note
    assert sections.unfinished_section(()) is None


def test_training_curves_of_many_settings_are_few(rates_analysis):
    cells = sections.shown_cells(rates_analysis[1])
    assert len(cells) == sections.MOST_CURVES and rates_analysis[1].selected in cells


def test_the_tile_of_the_best_rate_names_rate_and_lambda_as_they_are_configured(rates_analysis):
    found = rates_analysis[1]
    (optimum,) = found.optima
    value, what, more = sections._optimum_tile(found, optimum)
    assert value == optimum.knob.level(optimum.lam.value) and ":1" in value
    assert re.fullmatch(r"best LABEL_RATE:RATIONALE_RATE by a poor fit; 95 % interval beyond [\d.:]+ to [\d.:]+", what)
    assert re.fullmatch(r"all_tokens, LAMBDA 1, effective λ 0\.\d+", more)
    open_ = dataclasses.replace(optimum, lam=dataclasses.replace(optimum.lam, low=0.0, high=float("inf")))
    _, what_of_open, _ = sections._optimum_tile(found, open_)
    assert what_of_open.endswith(" by a poor fit; 95 % interval not bounded by the data")
    unset = dataclasses.replace(optimum, knob=None, weaknesses=Weaknesses())
    _, what_of_lambda, interval = sections._optimum_tile(found, unset)
    assert what_of_lambda == "best effective λ by the fit"
    assert re.fullmatch(r"95 % interval < 0\.3 to 0\.\d+; all_tokens", interval)
    tiles = next(section for section in sections.of(found, ()) if section.key == "findings").blocks[0].tiles
    assert (value, what, more) in tiles
