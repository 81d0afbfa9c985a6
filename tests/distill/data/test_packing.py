"""First-fit packing: no sequence is lost or split, groups stay together, shapes are fixed."""

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


def first_fit(groups, layout):
    """A plain reference: (row, segment, encoder offset, decoder offset) per sequence, and the number of groups placed."""
    used, placed = [[0, 0, 0] for _ in range(layout.windows)], []
    for taken, group in enumerate(groups):
        trial, more = [list(row) for row in used], []
        for encoder, decoder in group:
            for number, row in enumerate(trial):
                alone = layout.packed or row[2] == 0
                if alone and row[0] + encoder <= layout.encoder_length and row[1] + decoder <= layout.decoder_length:
                    more.append((number, row[2] + 1, row[0], row[1]))
                    trial[number] = [row[0] + encoder, row[1] + decoder, row[2] + 1]
                    break
            else:
                return placed, taken
        used, placed = trial, placed + more
    return placed, len(groups)


@settings(max_examples=200)
@given(
    groups=st.lists(st.lists(lengths, min_size=1, max_size=2), min_size=1, max_size=40),
    rows=st.integers(2, 9),
    packed=st.booleans(),
)
def test_plans_are_first_fit(groups, rows, packed):
    layout = Layout(rows, 12, 8, packed)
    planner, taken = Planner(layout), 0
    while taken < len(groups):
        expected, number = first_fit(groups[taken:], layout)
        for group in groups[taken : taken + number]:
            assert planner.add(group)
        if taken + number < len(groups):
            assert not planner.add(groups[taken + number])
        assert len(planner) == len(expected)
        plan = planner.take()
        got = np.stack([plan.rows, plan.segments, plan.encoder_offsets, plan.decoder_offsets], axis=1)
        assert [tuple(row) for row in got.tolist()] == expected
        taken += number


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


def test_first_fit_fills_gaps_that_a_sequential_packer_leaves():
    packer = Packer(Layout(2, 10, 10))
    for length in (6, 7, 4, 3):
        assert packer.add([token_pair(length, 1)])
    batch = packer.emit()
    assert (batch["encoder_segment_ids"] > 0).all()


def test_a_sequence_longer_than_the_window_is_rejected():
    with pytest.raises(ValueError, match=r"13 input and 3 target tokens is longer than the window \(12, 8\)"):
        Packer(Layout(1, 12, 8)).add([token_pair(13, 3)])


def test_a_group_that_fits_no_batch_is_rejected():
    with pytest.raises(ValueError, match="group of 2 sequences does not fit an empty batch of 1 windows"):
        Packer(Layout(1, 12, 8, packed=False)).add([token_pair(2, 2), token_pair(2, 2)])


def test_bad_layout():
    with pytest.raises(ValueError, match=r"Layout.windows must be ≥ 1; got 0"):
        Layout(0, 4, 4)
