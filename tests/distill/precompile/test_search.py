"""The search: its candidates, their order, and resumption after an interruption."""

import dataclasses

import pytest

from distill.data.packing import Layout
from distill.model.config import REMAT_POLICIES
from distill.model.network import T5Config
from distill.precompile import costs, search, steps
from distill.precompile.chips import CHIPS, GIB
from distill.precompile.topology import Topology
from distill.training import optimizers
from distill.training.losses import TwoTaskLoss
from distill.training.train import LoopConfig

RUN = steps.Run(
    model=T5Config(384, 32, 4, 8, 64, 1, 1, dropout_rate=0.0),
    loss=TwoTaskLoss(lam=0.5),
    optimizer=optimizers.adafactor(1e-3),
    loop=LoopConfig(train_steps=10),
    layout=Layout(8, 64, 32),
)
TARGET = Topology("v5e:2x2", CHIPS["v5e"], 4, tuple(range(4)))
PAIR = Topology("v5e:2x1", CHIPS["v5e"], 2, tuple(range(2)))


class Compiler:
    """Replaces libtpu: less recomputation needs more memory and is faster; records its calls."""

    def __init__(self, fits_from="minimal"):
        self.calls, self.fits_from = [], fits_from

    def __call__(self, name, run, target):
        assert name == "train"
        policy = run.model.remat_policy
        self.calls.append((run.mesh.sizes, run.layout.windows, policy))
        fits = REMAT_POLICIES.index(policy) >= REMAT_POLICIES.index(self.fits_from)
        speed = costs.Costs(matmul_flops=1e12 * (1 + REMAT_POLICIES.index(policy)) * run.mesh.model)
        refused = "" if fits else "RESOURCE_EXHAUSTED"
        return steps.CompiledStep(name, {"parameters": GIB}, 4 * GIB, GIB, 0, speed if fits else None, 1.0, "", refused)


def test_meshes_divide_the_model():
    found = search.meshes(8, RUN)
    assert all(data * fsdp * model == 8 for data, fsdp, model in found)
    assert {model for *_, model in found} == {1, 2, 4}  # four heads
    assert len(set(found)) == len(found) == 4 + 3 + 2


def test_candidates_cut_the_batch_evenly_and_leave_out_what_cannot_fit():
    found = search.candidates(RUN, TARGET, [2, 8])
    assert {one.batch_size for one in found if one.mesh[0] * one.mesh[1] == 4} == {8}
    assert {one.batch_size for one in found if one.mesh[2] == 2} == {2, 8}
    for policy in REMAT_POLICIES:
        guesses = [one.guess for one in found if one.remat_policy == policy]
        assert guesses == sorted(guesses)
    assert {one.remat_policy for one in found[: len(REMAT_POLICIES)]} == set(REMAT_POLICIES)  # policies take turns
    huge = dataclasses.replace(RUN, layout=Layout(2**24, 64, 32))
    assert search.candidates(huge, TARGET, [2**24]) == []


def test_the_fastest_that_fits_comes_first(tmp_path):
    space = search.candidates(RUN, PAIR, [8])
    compiler = Compiler()
    rows = search.search(RUN, PAIR, space, tmp_path / "r.jsonl", 100, compiler)
    assert rows[0]["result"]["fits"] and rows[0]["mesh"][2] == 1
    speeds = [row["tokens_per_second_per_chip"] for row in rows]
    assert speeds == sorted(speeds, reverse=True) and speeds[-1] == 0.0
    # "full" fits and recomputes more than "minimal"; only the compiler knows whether it is slower.
    assert {call[2] for call in compiler.calls} >= {"minimal", "full"}


def test_policies_that_save_more_are_skipped_if_one_that_saves_less_does_not_fit(tmp_path):
    compiler = Compiler(fits_from="full")
    space = sorted(search.candidates(RUN, PAIR, [8]), key=lambda one: -REMAT_POLICIES.index(one.remat_policy))
    rows = search.search(RUN, PAIR, space, tmp_path / "r.jsonl", 100, compiler)
    assert {policy for *_, policy in compiler.calls} == {"minimal", "full"}
    assert {(row["remat_policy"], row["result"]["fits"]) for row in rows} == {("minimal", False), ("full", True)}


def test_larger_batches_are_skipped_if_a_smaller_one_does_not_fit(tmp_path):
    compiler = Compiler(fits_from="full")
    space = sorted(search.candidates(RUN, PAIR, [4, 8], ["none"]), key=lambda one: one.batch_size)
    rows = search.search(RUN, PAIR, space, tmp_path / "r.jsonl", 100, compiler)
    assert {rows_ for _, rows_, _ in compiler.calls} == {4}
    assert not any(row["result"]["fits"] for row in rows)


def test_an_interrupted_search_resumes(tmp_path):
    space = search.candidates(RUN, PAIR, [8], ["minimal"])
    path = tmp_path / "results" / "r.jsonl"
    first, second = Compiler(), Compiler()
    assert len(search.search(RUN, PAIR, space, path, 1, first)) == len(first.calls) == 1
    with path.open("a") as file:
        file.write('{"key": "cut o')
    assert len(search.search(RUN, PAIR, space, path, 1, second)) == 2
    assert not set(first.calls) & set(second.calls)
    again = Compiler()
    assert len(search.search(RUN, PAIR, space, path, 1, again)) == 3
    assert not set(again.calls) & {
        *first.calls,
        *second.calls,
    }  # results appended after the incomplete line are found too
    third = Compiler()
    other = dataclasses.replace(RUN, layout=dataclasses.replace(RUN.layout, decoder_length=16))
    search.search(other, PAIR, space, path, 1, third)
    assert len(third.calls) == 1  # another run shares nothing


def test_a_file_that_no_search_wrote_is_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"input": "a row"}\n')
    with pytest.raises(
        ValueError, match=r"the file of results .*rows.jsonl exists, and was not written by `distill prec"
    ):
        search.search(RUN, PAIR, search.candidates(RUN, PAIR, [8], ["minimal"]), path, 1, Compiler())
    assert path.read_text() == '{"input": "a row"}\n'


def test_a_space_without_candidates_is_one_error(tmp_path):
    with pytest.raises(ValueError, match="nothing is worth compiling"):
        search.search(RUN, TARGET, [], tmp_path / "r.jsonl", 1, Compiler())
    with pytest.raises(ValueError, match="--max_compiles must be ≥ 1"):
        search.search(RUN, TARGET, search.candidates(RUN, TARGET, [8]), tmp_path / "r.jsonl", 0, Compiler())
