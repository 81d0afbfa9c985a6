"""The order of the data: a function of a seed and a position, whoever asks and whenever."""

import json

import numpy as np
import pytest

from distill.data import cache
from distill.data.batches import BatchStream
from distill.data.packing import Layout
from distill.tasks import jsonl, registration
from tests_support import write_lines, write_rows

LAYOUT = Layout(4, 64, 64)


def take(stream, number):
    return [next(stream) for _ in range(number)]


def assert_same(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        assert a.position == b.position
        for name in b.arrays:
            np.testing.assert_array_equal(a.arrays[name], b.arrays[name], err_msg=name)


def register(tmp_path, number=40, **kwargs):
    write_rows(tmp_path / "train.jsonl", number)
    fields = {"input": "question", "rationale": "why", "label": "answer"}
    dataset = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="ordered", fields=fields, validation_fraction=0.0)
    return registration.register(dataset, "bytes", **kwargs)


@pytest.mark.parametrize("form", ["paired", "label", "mixed"])
def test_restored_streams_go_on_exactly(tmp_path, form):
    name = getattr(register(tmp_path), form)
    wanted = take(BatchStream(name, LAYOUT, seed=5), 30)
    assert wanted[-1].epoch > 2
    for after in (1, 7, 19):
        stream = BatchStream(name, LAYOUT, seed=5)
        stream.restore(json.loads(json.dumps(wanted[after - 1].position)))
        assert_same(take(stream, 30 - after), wanted[after:])


def test_a_subsample_and_rows_with_several_rationales_are_counted(tmp_path):
    rows = [{"id": str(n), "input": f"q{n}", "label": "a", "rationales": ["x", "y"][: n % 3]} for n in range(40)]
    write_lines(tmp_path / "rows.jsonl", rows)
    dataset = jsonl.dataset({"train": tmp_path / "rows.jsonl"}, name="several", validation_fraction=0.0)
    whole = registration.register(dataset, "bytes")
    several = "data: 13 of 40 rows have several rationales; "
    assert BatchStream(whole.paired, LAYOUT).row_lines() == [f"{several}one of them is drawn in each epoch"]
    assert BatchStream(whole.mixed, LAYOUT).row_lines() == [f"{several}one of them is drawn in each epoch"]
    assert BatchStream(whole.label, LAYOUT).row_lines() == []
    first = registration.register(dataset, "bytes", rationales="first")
    assert BatchStream(first.single, LAYOUT).row_lines() == [f"{several}the first is used"]
    half = BatchStream(registration.register(dataset, "bytes", subsample=0.5, rationales="all").paired, LAYOUT)
    used = len(set(half.rows_of("several_paired").input_keys("train").tolist()))
    assert half.row_lines() == [f"data: {used} of 40 rows are used (SUBSAMPLE=0.5)"] and 10 < used < 30


def test_another_seed_is_another_order(tmp_path):
    name = register(tmp_path).paired
    first, second = (next(BatchStream(name, LAYOUT, seed=seed)) for seed in (0, 1))
    assert (first.arrays["encoder_input_tokens"] != second.arrays["encoder_input_tokens"]).any()


def test_every_row_is_seen_once_an_epoch(tmp_path):
    stream = BatchStream(register(tmp_path).label, Layout(1, 64, 64, packed=False))
    batches = take(stream, 80)
    rows = [batch.arrays["encoder_input_tokens"].tobytes() for batch in batches]
    assert sorted(rows[:40]) == sorted(rows[40:])
    assert rows[:40] != rows[40:]
    assert [batch.examples for batch in batches] == [1] * 80
    assert batches[39].epoch == pytest.approx(1.0)


@pytest.mark.parametrize(("label_rate", "rationale_rate"), [(1.0, 1.0), (1.0, 3.0), (0.2, 0.8)])
def test_mixture_rates_are_honoured(tmp_path, label_rate, rationale_rate):
    names = register(tmp_path, label_rate=label_rate, rationale_rate=rationale_rate)
    stream = BatchStream(names.mixed, Layout(16, 64, 64, packed=False), seed=2)
    ids = np.concatenate([batch.arrays["decoder_task_ids"][:, 0] for batch in take(stream, 150)])
    share = rationale_rate / (label_rate + rationale_rate)
    assert (ids == 2).mean() == pytest.approx(share, abs=4 * (share * (1 - share) / len(ids)) ** 0.5)


def test_processes_see_their_rows_of_the_same_batches(tmp_path):
    name = register(tmp_path).paired
    whole = BatchStream(name, LAYOUT, seed=1)
    parts = [BatchStream(name, LAYOUT, seed=1, rows=slice(start, start + 2)) for start in (0, 2)]
    for _ in range(12):
        batch, pieces = next(whole), [next(part) for part in parts]
        assert {piece.position["draws"] for piece in pieces} == {batch.position["draws"]}
        for feature, value in batch.arrays.items():
            np.testing.assert_array_equal(np.concatenate([p.arrays[feature] for p in pieces]), value)


def test_one_of_several_rationales_is_drawn_each_epoch(tmp_path):
    rows = [{"input": f"q{i}", "label": "a", "rationales": [f"why {i} {k}" for k in range(4)]} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="several", validation_fraction=0.0)
    names = registration.register(dataset, "bytes", rationales="draw")
    stream = BatchStream(names.rationale, Layout(8, 64, 64, packed=False), seed=3, shuffle=False)
    epochs = [batch.arrays["decoder_target_tokens"] for batch in take(stream, 4)]
    assert any((epochs[0] != other).any() for other in epochs[1:])
    again = BatchStream(names.rationale, Layout(8, 64, 64, packed=False), seed=3, shuffle=False)
    for wanted in epochs:
        np.testing.assert_array_equal(next(again).arrays["decoder_target_tokens"], wanted)


def test_long_sequences_are_cut_with_their_end_kept_and_counted(tmp_path):
    stream = BatchStream(register(tmp_path).paired, Layout(8, 12, 10))
    batch = next(stream)
    assert stream.counts.truncated_inputs[2] == stream.counts.sequences[2] > 0
    assert 0.5 < stream.counts.share_truncated() <= 1.0
    assert stream.counts.longest_inputs > 12 and stream.counts.longest_targets > 10
    segments, tokens = batch.arrays["encoder_segment_ids"], batch.arrays["encoder_input_tokens"]
    ends = (segments > 0) & (np.pad(segments, ((0, 0), (0, 1)))[:, 1:] != segments)
    assert (tokens[ends] == 1).all()


def test_a_split_without_rows(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"input": "x"}\n')
    dataset = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="empty", validation_fraction=0.0)
    names = registration.register(dataset, "bytes")
    with pytest.raises(ValueError, match="task 'empty_rationale' has no usable example in split 'train'"):
        next(BatchStream(names.rationale, LAYOUT))


@pytest.mark.parametrize("form", ["paired", "shared", "single"])
def test_no_rationale_in_any_row_is_an_error_and_some_are_a_warning(tmp_path, form, caplog):
    layout = Layout(4, 64, 64, shared_encoder=form == "shared")

    def stream(whys, labels=("a",)):
        rows = [{"input": f"q{n}", "label": labels[n % len(labels)], "rationale": why} for n, why in enumerate(whys)]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        dataset = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="whyless", validation_fraction=0.0)
        return BatchStream(getattr(registration.register(dataset, "bytes"), form), layout)

    with pytest.raises(ValueError, match=r"none of 12 rows of split 'train' has a rationale.*FORM=label"):
        stream([None] * 12)
    with caplog.at_level("WARNING", logger="absl"):
        stream(["why"] * 12)
        assert not caplog.messages
        stream(["why", None, " "] * 4)
    assert caplog.messages == [
        f"whyless_{form}, train: 8 of 12 rows have no rationale and are trained on the label alone"
    ]
    assert stream(["why"]).counts.label_is_last == (form == "single")
    if form != "single":
        with pytest.raises(ValueError, match=r"none of 12 rows of split 'train' has a label.*LABEL_SOURCE=teacher"):
            stream(["why"] * 12, [" ", None])


TARGETS = (("a", "why"), (float("nan"), "why"), (float("nan"), float("nan")))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("paired", "4 of 12 rows have neither a label nor a rationale and are left out"),
        ("shared", "4 of 12 rows have neither a label nor a rationale and are left out"),
        ("label", "8 of 12 rows have no label and are left out"),
        ("rationale", "4 of 12 rows have no rationale and are left out"),
    ],
)
def test_rows_without_a_target_are_counted_in_a_warning(tmp_path, form, message, caplog):
    rows = [{"input": f"q{n}", "label": label, "rationale": why} for n in range(4) for label, why in TARGETS]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="targets", validation_fraction=0.0)
    name = getattr(registration.register(dataset, "bytes"), form)
    with caplog.at_level("WARNING", logger="absl"):
        stream = BatchStream(name, Layout(4, 64, 64, shared_encoder=form == "shared"))
        take(stream, 8)
    assert caplog.messages[0] == f"targets_{form}, train: {message}"
    assert sum("left out" in text for text in caplog.messages) == 1
    caplog.clear()
    with caplog.at_level("WARNING", logger="absl"):
        cache.build([name], tmp_path / "cache")
    assert caplog.messages == [f"targets_{form}, train: {message}"]
