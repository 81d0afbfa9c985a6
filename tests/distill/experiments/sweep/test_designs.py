"""Drawn designs: seeded, inside their ranges, spread as their kind says, and crossed with seeds."""

import numpy as np
import pytest

from distill.experiments.sweep import designs, reading, schema

TEXT = """
axes:
  method: {a: {}, b: {}}
  LAMBDA: {low: 0.01, high: 100, log: true}
  LAYERS: {low: 1, high: 4, int: true, when: {method: a}}
  RANDOM_SEED: [0, 1]
"""


def read(tmp_path, design):
    (tmp_path / "s.yaml").write_text(f"{TEXT}design: {design}\n")
    return reading.read(tmp_path / "s.yaml", "out")


@pytest.mark.parametrize("kind", schema.DESIGNS)
def test_points_are_seeded_and_inside(tmp_path, kind):
    one, again, other = (read(tmp_path, f"{{kind: {kind}, points: 16, seed: {seed}}}") for seed in (3, 3, 4))
    assert one == again and one.runs() == again.runs()
    assert [run.name for run in one.runs()] != [run.name for run in other.runs()]
    runs = one.runs()
    assert len(runs) == 32 and {run.values["RANDOM_SEED"] for run in runs} == {"0", "1"}
    assert all(0.01 <= run.numbers["LAMBDA"] <= 100 for run in runs)
    assert all(("LAYERS" in run.values) == (run.values["method"] == "a") for run in runs)
    assert {run.values["LAYERS"] for run in runs if "LAYERS" in run.values} <= {"1", "2", "3", "4"}
    assert [level.number for level in one.axes["LAMBDA"]] == sorted({run.numbers["LAMBDA"] for run in runs})


def test_a_latin_hypercube_has_one_point_per_slice_and_sobol_two_per_half_slice():
    for kind in ("latin_hypercube", "sobol"):
        shares = designs.Design(kind, 16, seed=1).shares(3)
        for column in shares.T:
            assert sorted((column * 16).astype(int)) == list(range(16))  # also of a scrambled Sobol net in base 2
    assert len(np.unique(designs.Design("random", 16, seed=1).shares(3), axis=0)) == 16


def test_crossed_axes_have_every_level_at_every_point(tmp_path):
    sweep = read(tmp_path, "{kind: sobol, points: 4, cross: [method]}")
    drawn = {}
    for run in sweep.runs():
        drawn.setdefault(run.values["LAMBDA"], set()).add(run.values["method"])
    assert len(drawn) == 4 and all(methods == {"a", "b"} for methods in drawn.values())
