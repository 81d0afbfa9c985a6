"""Packing: no sequence is lost or split, groups stay together, shapes are fixed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data.features import pack_batches
from distill.data.packing import Layout, Packer, Planner, TokenPair


def token_pair(inputs, targets, task=1, start=2):
    return TokenPair(
        np.arange(start, start + inputs, dtype=np.int32),
        np.arange(start + 100, start + 100 + targets, dtype=np.int32),
        np.full(targets, task, np.int32),
        np.full(targets, 0.5, np.float32),
    )


def unpack(batch, packed):
    """The sequences of a batch, read back from its arrays."""
    out = []
    for row in range(len(batch["encoder_input_tokens"])):
        if packed:
            segments = range(1, int(batch["encoder_segment_ids"][row].max()) + 1)
            masks = [(batch["encoder_segment_ids"][row] == s, batch["decoder_segment_ids"][row] == s) for s in segments]
        else:
            mask = batch["encoder_input_tokens"][row] > 0
            masks = [(mask, batch["decoder_target_tokens"][row] > 0)] if mask.any() else []
        for encoder, decoder in masks:
            out.append(
                (
                    tuple(batch["encoder_input_tokens"][row][encoder]),
                    tuple(batch["decoder_target_tokens"][row][decoder]),
                    tuple(batch["decoder_task_ids"][row][decoder]),
                    tuple(batch["decoder_input_tokens"][row][decoder]),
                )
            )
    return out


lengths = st.tuples(st.integers(1, 12), st.integers(1, 8))


@settings(max_examples=60)
@given(groups=st.lists(st.lists(lengths, min_size=1, max_size=2), min_size=1, max_size=40), packed=st.booleans())
def test_every_sequence_comes_out_once_and_whole(groups, packed):
    layout = Layout(3, 12, 8, packed)
    start, made = 2, []
    for group in groups:
        made.append([token_pair(n, m, task=1 + i, start=start + i) for i, (n, m) in enumerate(group)])
        start += 3
    batches = list(pack_batches(iter(made), layout))
    got = [sequence for batch in batches for sequence in unpack(batch, packed)]
    wanted = [
        (tuple(s.inputs), tuple(s.targets), tuple(s.task_ids), (0, *s.targets[:-1])) for group in made for s in group
    ]
    assert sorted(got) == sorted(wanted)
    for batch in batches:
        assert batch["encoder_input_tokens"].shape == (3, 12)
        assert batch["decoder_loss_weights"].shape == (3, 8)
        assert batch["decoder_loss_weights"].dtype == np.float32
        np.testing.assert_array_equal(batch["decoder_loss_weights"] > 0, batch["decoder_task_ids"] > 0)
        if packed:
            for side in ("encoder", "decoder"):
                positions, segments = batch[f"{side}_positions"], batch[f"{side}_segment_ids"]
                starts = np.diff(segments, axis=1, prepend=0) != 0
                assert (positions[starts & (segments > 0)] == 0).all()


@settings(max_examples=40)
@given(pairs=st.lists(st.tuples(lengths, lengths), min_size=1, max_size=30), packed=st.booleans())
def test_both_sequences_of_a_pair_are_in_one_batch(pairs, packed):
    made = [
        [token_pair(a[0], a[1], 1, start=10 * i + 2), token_pair(b[0], b[1], 2, start=10 * i + 3)]
        for i, (a, b) in enumerate(pairs)
    ]
    for batch in pack_batches(iter(made), Layout(4, 12, 8, packed)):
        firsts = {s[0][0] for s in unpack(batch, packed)}
        for i in range(len(pairs)):
            assert (10 * i + 2 in firsts) == (10 * i + 3 in firsts)


@settings(max_examples=200)
@given(
    groups=st.lists(st.lists(lengths, min_size=1, max_size=2), min_size=1, max_size=40),
    rows=st.integers(2, 9),
    packed=st.booleans(),
    shared=st.booleans(),
)
def test_plans_hold_what_was_accepted(groups, rows, packed, shared):
    layout = Layout(rows, 24, 16, packed, shared_encoder=shared)
    if shared:
        groups = [[first, *((0, targets) for _, targets in more)] for first, *more in groups]
    planner, accepted = Planner(layout), []
    for group in groups:
        if not planner.add(group):
            break
        accepted += group
        assert len(planner) == len(accepted)
    plan = planner.take()
    assert len(planner) == 0
    assert len(plan.rows) == len(accepted)
    for row in range(rows):
        inside = np.flatnonzero(plan.rows == row)
        inputs, targets = np.array(accepted, np.int64).reshape(-1, 2)[inside].T
        np.testing.assert_array_equal(plan.encoder_offsets[inside], np.cumsum(inputs) - inputs)
        np.testing.assert_array_equal(plan.decoder_offsets[inside], np.cumsum(targets) - targets)
        assert inputs.sum() <= 24
        assert targets.sum() <= 16
        if shared:
            firsts = inputs > 0
            np.testing.assert_array_equal(plan.segments[inside], 2 * np.cumsum(firsts) - firsts)
        else:
            np.testing.assert_array_equal(plan.segments[inside], np.arange(len(inside)) + 1)
        if not packed:
            assert (inputs > 0).sum() <= 1


def test_a_refused_group_leaves_no_trace():
    ours, other = Planner(Layout(2, 10, 10)), Planner(Layout(2, 10, 10))
    for planner in (ours, other):
        assert planner.add([(6, 6), (5, 5)])
    assert not ours.add([(4, 4), (6, 6)])
    for planner in (ours, other):
        assert planner.add([(5, 5)])
    expected = vars(other.take())
    for name, value in vars(ours.take()).items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("rows", [slice(1, 3), np.array([1, 3])], ids=["adjacent", "apart"])
def test_rows_of_a_process_equal_those_of_the_whole_batch(rows):
    groups = [[token_pair(5, 3, start=i * 7 + 2)] for i in range(9)]
    whole, part = Packer(Layout(4, 12, 8)), Packer(Layout(4, 12, 8))
    for group in groups[:6]:
        assert whole.add(group)
        assert part.add(group)
    expected, got = whole.emit(), part.emit(rows)
    for name, value in got.items():
        np.testing.assert_array_equal(value, expected[name][rows])


def test_a_small_batch_is_placed_anew_to_make_room():
    packer = Packer(Layout(2, 10, 10))
    for length in (3, 3, 4, 6, 4):  # 3 and 3, 4 and 6 in one window each leave no room for the last
        assert packer.add([token_pair(length, length)])
    batch = packer.emit()
    assert (batch["encoder_segment_ids"] > 0).all()
    assert sorted(len(sequence[0]) for sequence in unpack(batch, True)) == [3, 3, 4, 4, 6]


def test_a_sequence_longer_than_the_window_is_rejected():
    with pytest.raises(ValueError, match=r"13 input and 3 target tokens is longer than the window \(12, 8\)"):
        Packer(Layout(1, 12, 8)).add([token_pair(13, 3)])


def test_a_group_that_fits_no_batch_is_rejected():
    with pytest.raises(ValueError, match="group of 2 sequences does not fit an empty batch of 1 windows"):
        Packer(Layout(1, 12, 8, packed=False)).add([token_pair(2, 2), token_pair(2, 2)])


def test_bad_layout():
    with pytest.raises(ValueError, match=r"Layout.windows must be ≥ 1; got 0"):
        Layout(0, 4, 4)
