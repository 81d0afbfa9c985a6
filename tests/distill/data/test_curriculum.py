"""The order of a curriculum: sorted, then less and less so; the same after a restart and from a cache."""

import json

import numpy as np
import pytest

from distill.checkpoints import schemas
from distill.data import cache
from distill.data.batches import BatchStream
from distill.data.curriculum import Curriculum
from distill.data.packing import Layout
from distill.tasks import jsonl, registration

LAYOUT = Layout(1, 32, 64, packed=False)


def correlation(order, measure):
    return float(np.corrcoef(np.arange(len(order)), np.argsort(np.argsort(measure))[order])[0, 1])


def test_epochs_are_sorted_less_and_less():
    rng = np.random.default_rng(0)
    lengths = rng.permutation(500).reshape(500, 1, 1).repeat(2, axis=2).repeat(2, axis=1)
    shuffled = rng.permutation(500)
    curriculum = Curriculum(epochs=4)
    orders = [curriculum.order(shuffled, lengths, epoch) for epoch in range(5)]
    assert all(sorted(order) == list(range(500)) for order in orders)
    assert (np.diff(lengths[orders[0], 0, 1]) > 0).all()
    strengths = [correlation(order, lengths[:, 0, 1]) for order in orders]
    assert strengths == sorted(strengths, reverse=True) and strengths[0] == pytest.approx(1.0)
    np.testing.assert_array_equal(orders[4], shuffled)
    # The definition, in real numbers, where no two keys are equal:
    rank = {"d": np.argsort(np.argsort(lengths[:, 0, 1])) / 500, "u": np.argsort(shuffled) / 500}
    key = 0.75 * rank["d"] + 0.25 * rank["u"]
    assert (np.diff(key[orders[1]]) > -1e-12).all()
    reverse = Curriculum(hardest_first=True).order(shuffled, lengths, 0)
    assert (np.diff(lengths[reverse, 0, 1]) < 0).all()
    np.testing.assert_array_equal(Curriculum(by="row").order(shuffled, lengths, 0), np.arange(500))


@pytest.fixture
def names(tmp_path):
    rng = np.random.default_rng(1)
    rows = [{"input": f"q{n}", "label": "a", "rationales": ["w" * int(rng.integers(1, 40))]} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = jsonl.dataset({"train": tmp_path / "rows.jsonl"}, name="ordered", validation_fraction=0.0)
    return registration.register(dataset, "bytes")


def take(stream, number):
    return [next(stream) for _ in range(number)]


def lengths_of(batches):
    return [int((batch.arrays["decoder_task_ids"] > 0).sum()) for batch in batches]


def test_streams_are_ordered_and_continue_exactly(names, tmp_path):
    curriculum = Curriculum(epochs=2)
    wanted = take(BatchStream(names.rationale, LAYOUT, seed=3, curriculum=curriculum), 90)
    first, second, third = (lengths_of(wanted[start : start + 30]) for start in (0, 30, 60))
    assert first == sorted(first)
    assert 0.3 < np.corrcoef(np.arange(30), second)[0, 1] < 0.99
    plain = take(BatchStream(names.rationale, LAYOUT, seed=3), 90)
    assert third == lengths_of(plain[60:])
    again = BatchStream(names.rationale, LAYOUT, seed=3, curriculum=curriculum)
    schemas.check(
        "position", json.loads(json.dumps(wanted[40].position)), "a checkpoint"
    )  # which a checkpoint may hold
    again.restore(json.loads(json.dumps(wanted[40].position)))
    assert lengths_of(take(again, 49)) == lengths_of(wanted[41:])
    cache.build([names.rationale], tmp_path / "cached")
    cached = BatchStream(names.rationale, LAYOUT, seed=3, curriculum=curriculum, cache_dir=tmp_path / "cached")
    assert lengths_of(take(cached, 60)) == first + second


def test_another_order_is_another_position(names):
    stream = BatchStream(names.rationale, LAYOUT, curriculum=Curriculum())
    next(stream)
    for other in (None, Curriculum(epochs=3)):
        with pytest.raises(ValueError, match="set CURRICULUM as it was"):
            BatchStream(names.rationale, LAYOUT, curriculum=other).restore(stream.position())
    assert "curriculum" not in BatchStream(names.rationale, LAYOUT).position()
    with pytest.raises(ValueError, match="a curriculum orders shuffled data; got shuffle=False"):
        BatchStream(names.rationale, LAYOUT, shuffle=False, curriculum=Curriculum())
    with pytest.raises(ValueError, match=r"Curriculum\.by must be one of 'targets', 'inputs', 'row'; got 'loss'"):
        Curriculum(by="loss")
