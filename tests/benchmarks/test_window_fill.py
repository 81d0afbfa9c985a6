"""The benchmark of window filling: both sides place the same rows, and ours fills more."""

import numpy as np

from benchmarks import window_fill
from distill.data.packing import Layout, Planner


def test_both_sides_place_the_same_rows():
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(3.8, 0.4, (400, 2)), 8, 120).astype(int).tolist()
    groups = [[(inputs, 4), (inputs + 1, rationale)] for inputs, rationale in sizes]
    layout = Layout(8, 256, 144)
    rows, shares, _ = window_fill.filled(groups, layout, 5, window_fill.first_fit)
    more, fuller, _ = window_fill.filled(groups, layout, 5, lambda layout: Planner(layout).add)
    assert more > rows
    assert (fuller > shares).all() and (fuller <= 1).all()


def test_it_runs(paper_data, t5_vocabulary_path, capsys):
    window_fill.main([f"--data_dir={paper_data}", f"--vocabulary={t5_vocabulary_path}", "--batches=2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "first-fit" in lines[1] and "balanced" in lines[2]
