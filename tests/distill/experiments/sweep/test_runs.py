"""Runs: their names, bindings, groups and moved directories."""

import pathlib

import pytest

from distill.experiments.sweep.levels import SEED, Level, SweepError
from distill.experiments.sweep.runs import Run, Start, Sweep, grouped, named_together


def sweep(**changes):
    axes = {"RANDOM_SEED": (Level("0"), Level("1")), "A": (Level("x y", bindings=("A = 1",), number=1.0), Level("z"))}
    return Sweep(pathlib.Path("out"), axes, ("f.gin",), ("B = 2",), **changes)


def test_a_run_has_the_bindings_of_its_levels_last():
    run = sweep().runs()[0]
    assert run.name == "A-x_y__RANDOM_SEED-0"
    assert run.bindings == ("B = 2", "A = 1", "MODEL_DIR = 'out/A-x_y__RANDOM_SEED-0'")
    assert run.numbers == {"A": 1.0} and run.values == {"A": "x y", SEED: "0"}
    assert run.configuration() == (["f.gin"], ["B = 2", "A = 1"])
    assert sweep().with_bindings(["C = 3"]).runs()[0].bindings[:3] == ("B = 2", "C = 3", "A = 1")


def test_groups_differ_in_the_seed_only():
    runs = sweep().runs()
    assert [len(group) for group in grouped(runs, True)] == [2, 2]
    assert [len(group) for group in grouped(runs, False)] == [1, 1, 1, 1]
    names = [named_together(runs[:number]) for number in (1, 2, 3)]
    assert names == [runs[0].name, f"{runs[0].name} and 1 more seed", f"{runs[0].name} and 2 more seeds"]


def test_the_start_of_all_runs():
    given = sweep(start=Start(("p.gin",), demo=True))
    start = given.start_run()
    assert isinstance(start, Run) and start.gin_files == ("p.gin",)
    assert start.bindings == ("VOCABULARY_PATH = 'out/vocabulary.model'", "MODEL_DIR = 'out/pretraining'")
    assert given.runs()[0].bindings[:2] == (
        "VOCABULARY_PATH = 'out/vocabulary.model'",
        "INITIAL_CHECKPOINT_PATH = 'out/pretraining'",
    )


def test_names_that_folders_cannot_tell_apart_are_refused():
    levels = (Level("a b"), Level("a_b"))
    with pytest.raises(SweepError, match="two runs of the sweep have the same name"):
        Sweep(pathlib.Path("out"), {"A": levels}).runs()
