"""Points beside a design: which runs they add, and which mistakes are named."""

import pytest

from distill.experiments.sweep import SweepError, more, reading

AXES = """
axes:
  form: {paired: {}, mixed: {}}
  LAMBDA: {low: 0.25, high: 4, points: 3, log: true, when: {form: paired}}
  rates: {ratio: [4:1, 1:1], when: {form: mixed}}
  RANDOM_SEED: [0, 1]
"""


def sweep(tmp_path, more=""):
    (tmp_path / "s.yaml").write_text(f"directory: {tmp_path}/out\n{AXES}{more}")
    return reading.read(tmp_path / "s.yaml")


def test_points_are_added_after_the_design_and_keep_its_runs(tmp_path):
    before = sweep(tmp_path)
    more = "more:\n- {form: paired, LAMBDA: [4, 8.5]}\n"
    more += "- {form: mixed, rates: '2:1', RANDOM_SEED: [1, 7], DROPOUT_RATE: 0.1}\n"
    found = sweep(tmp_path, more)
    names = [run.name for run in found.runs()]
    assert names[: len(before.runs())] == [run.name for run in before.runs()]
    assert names[len(before.runs()) :] == [
        "form-paired__LAMBDA-8.5__RANDOM_SEED-0",
        "form-paired__LAMBDA-8.5__RANDOM_SEED-1",
        "form-mixed__rates-2_1__DROPOUT_RATE-0.1__RANDOM_SEED-1",
        "form-mixed__rates-2_1__DROPOUT_RATE-0.1__RANDOM_SEED-7",
    ], "LAMBDA 4 is a level of the design, with both of its seeds"
    assert "LABEL_RATE = 2.0" in found.runs()[-1].bindings and "DROPOUT_RATE = 0.1" in found.runs()[-1].bindings
    axes = found.all_axes()
    assert [level.name for level in axes["LAMBDA"]] == ["0.25", "1.0", "4", "8.5"]
    assert [level.name for level in axes["rates"]] == ["4:1", "1:1", "2:1"] and "DROPOUT_RATE" in axes
    assert "DROPOUT_RATE" not in found.axes, "the design is not multiplied by it"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("{form: paired}", "axis 'LAMBDA' is missing; a point names all axes that apply to it"),
        ("{form: paired, LAMBDA: 2, rates: '1:1'}", "axis 'rates' does not apply at this point"),
        ("{form: single, LAMBDA: 2}", "axis 'form' has no level 'single'; its levels are ['paired', 'mixed']"),
        ("{form: mixed, rates: fast}", "axis 'rates' needs a positive number, or 'A:B' of two; got 'fast'"),
        ("{form: mixed, rate: '1:1'}", "'rate' is neither an axis of ['LAMBDA', 'RANDOM_SEED', 'form', 'rates']"),
        ("3", "must hold objects AXIS: value, or a list of values; got 3"),
    ],
)  # fmt: skip
def test_a_point_that_the_sweep_cannot_have_is_named_with_its_line(tmp_path, point, message):
    with pytest.raises(SweepError) as caught:
        sweep(tmp_path, f"more:\n- {point}\n")
    assert message in str(caught.value) and "s.yaml:" in str(caught.value)


def test_a_search_has_no_points_to_add(tmp_path):
    with pytest.raises(SweepError, match="a search chooses its points; increase 'trials'"):
        sweep(tmp_path, "design: {kind: optuna, trials: 3}\nmore: [{form: mixed, rates: '2:1'}]\n")


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"LAMBDA": "6.0"}, [{"rates": "2:1", "RANDOM_SEED": [5, 6]}]),
        ({"LAMBDA": 6, "RANDOM_SEED": 1}, [{"LAMBDA": 6}, {"rates": "2:1", "RANDOM_SEED": [5, 6]}]),
        ({"rates": 2, "RANDOM_SEED": 5}, [{"LAMBDA": 6}, {"rates": "2:1", "RANDOM_SEED": 6}]),
        ({"RANDOM_SEED": [5, 6]}, [{"LAMBDA": 6}]),
    ],
)
def test_points_are_dropped_by_their_values(values, kept):
    assert more.without([{"LAMBDA": 6}, {"rates": "2:1", "RANDOM_SEED": [5, 6]}], values) == kept
