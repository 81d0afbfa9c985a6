"""What happens before the runs of a sweep train; test_sweeps.py runs the command."""

import argparse

import pytest

from distill.cli import sweep_planning
from distill.experiments.sweep import SweepError, planning, reading


@pytest.fixture
def demo_sweep(tmp_path):
    source = {
        "axes": {"BATCH_SIZE": [4, 8], "RANDOM_SEED": [0, 1]}, "directory": str(tmp_path), "start": "demo_vocabulary",
        "joint_seeds": True,
    }  # fmt: skip
    return reading.from_document(source, {}, tmp_path / "a.yaml")


def test_runs_are_chosen_by_name_or_by_the_number_of_their_group(demo_sweep):
    made = planning.prepare(demo_sweep, write=False)
    names = [run.name for run in made.runs]
    assert len(names) == 4
    by_name = argparse.Namespace(run=names[1:3], index=None)
    chosen = sweep_planning.chosen(demo_sweep, made, by_name)
    assert [[run.name for run in group] for group in chosen] == [names[1:2], names[2:3]]
    (second,) = sweep_planning.chosen(demo_sweep, made, argparse.Namespace(run=[], index=1))
    assert [run.values["BATCH_SIZE"] for run in second] == ["8", "8"]
    with pytest.raises(SweepError, match="nope"):
        sweep_planning.chosen(demo_sweep, made, argparse.Namespace(run=["nope"], index=None))
    with pytest.raises(SweepError, match="2"):
        sweep_planning.chosen(demo_sweep, made, argparse.Namespace(run=[], index=2))


def test_the_demo_s_vocabulary_is_written_where_its_runs_read_it(demo_sweep, tmp_path):
    sweep_planning.write_vocabulary(demo_sweep)
    assert (tmp_path / "vocabulary.model").stat().st_size > 1000
