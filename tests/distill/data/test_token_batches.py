"""Token windows: what a stream yields is what the file serves, in an order that restarts and processes share."""

import dataclasses
import io
import pathlib

import numpy as np
import pytest

from distill.data import token_batches
from distill.data.batches import BatchStream
from distill.data.packing import Layout
from distill.data.token_batches import TokenBatches, Windows
from distill.tasks import jsonl, registration, task_ids
from tests_support import write_rows

FORMS = {"packed": ("paired", True), "unpacked": ("paired", False), "shared": ("shared", True)}


def stream(sums, form, **kwargs):
    name, packed = FORMS[form]
    return BatchStream(getattr(sums, name), Layout(8, 48, 48, packed, name == "shared"), seed=2, **kwargs)


@pytest.fixture
def file(sums, tmp_path):
    token_batches.write(tmp_path / "windows.npz", stream(sums, "packed"), 3)
    return tmp_path / "windows.npz"


@pytest.mark.parametrize("form", FORMS)
def test_the_file_serves_the_windows_of_the_stream(sums, tmp_path, form):
    path = tmp_path / "windows.npz"
    number = token_batches.write(path, stream(sums, form))
    source, written = stream(sums, form), []
    while not written or written[-1].epoch < 1.0:
        written.append(next(source))
    windows = Windows.read(path)
    served = next(TokenBatches(windows, number, shuffle=False))
    used = np.concatenate([batch.arrays["decoder_task_ids"] for batch in written]).any(1)
    assert served.examples == sum(batch.examples for batch in written)
    assert set(served.arrays) == set(written[0].arrays)
    for name, array in served.arrays.items():
        whole = np.concatenate([batch.arrays[name] for batch in written])[used]
        np.testing.assert_array_equal(array, whole, err_msg=name)
        assert array.dtype == whole.dtype
    assert windows.layout(8) == source.layout


@pytest.mark.parametrize(("label_rate", "labels"), [(0.25, 24), (0.0, 0)])
def test_the_file_of_a_mixture_has_every_example_of_every_task_that_is_drawn(tmp_path, label_rate, labels):
    write_rows(tmp_path / "rows.jsonl", 24)
    fields = {"input": "question", "rationale": "why", "label": "answer"}
    rows = jsonl.dataset({"train": tmp_path / "rows.jsonl"}, name="drawn", fields=fields, validation_fraction=0.0)
    mixed = registration.register(rows, "bytes", label_rate=label_rate).mixed
    token_batches.write(tmp_path / "windows.npz", BatchStream(mixed, Layout(8, 64, 64, packed=False), seed=2))
    arrays = Windows.read(tmp_path / "windows.npz").arrays
    for task, wanted in ((task_ids.LABEL, labels), (task_ids.RATIONALE, 20)):
        of_task = arrays["encoder_input_tokens"][arrays["decoder_task_ids"][:, 0] == task]
        assert len({row.tobytes() for row in of_task}) == wanted


def test_a_file_of_windows_is_replaced_and_no_other(sums, file):
    assert token_batches.write(file, stream(sums, "packed"), 1) == len(Windows.read(file))
    other = io.BytesIO()
    np.savez(other, thesis=np.zeros(3))
    for content in (b"words", other.getvalue()):
        file.write_bytes(content)
        wanted = r"windows\.npz exists, and was not written by `distill\.data\.token_batches\.write`"
        with pytest.raises(ValueError, match=wanted):
            token_batches.write(file, stream(sums, "packed"), 1)
        assert file.read_bytes() == content


@pytest.mark.parametrize("form", FORMS)
def test_sizes_and_lengths_are_those_of_the_tokens(sums, tmp_path, form):
    """One epoch without a window of the next: the counts of the file are those of the data set."""
    source = stream(sums, form)
    whole = dataclasses.replace(source.layout, windows=200)
    token_batches.write(tmp_path / "windows.npz", one := BatchStream(getattr(sums, FORMS[form][0]), whole), 1)
    batches = TokenBatches(Windows.read(tmp_path / "windows.npz"), 4)
    passes, rest = divmod(batches.examples, one.examples)
    assert passes >= 1
    if not rest:
        assert batches.counts.sequences == {task: passes * n for task, n in one.counts.sequences.items()}
    inputs, targets = batches.lengths()
    arrays = batches.windows.arrays
    assert inputs.sum() == (arrays["encoder_input_tokens"] > 0).sum()
    assert targets.sum() == (arrays["decoder_task_ids"] > 0).sum()
    assert len(targets) == sum(batches.counts.sequences.values())
    assert set(targets) <= set(one.lengths()[1]) and set(inputs) <= set(one.lengths()[0])


def test_every_epoch_has_every_window_once_in_another_order(file):
    windows = Windows.read(file)
    batches, number = TokenBatches(windows, 4, seed=1), len(windows)
    rows = np.concatenate([next(batches).arrays["encoder_input_tokens"] for _ in range(number)])  # four epochs
    wanted = sorted(row.tobytes() for row in windows.arrays["encoder_input_tokens"])
    epochs = [rows[start : start + number] for start in range(0, 4 * number, number)]
    for epoch in epochs:
        assert sorted(row.tobytes() for row in epoch) == wanted
    assert not np.array_equal(epochs[0], epochs[1])
    assert batches.epoch() == 4.0
    again = TokenBatches(windows, 4, seed=1)
    assert sum(next(again).examples for _ in range(number)) == 4 * batches.examples
    other = next(TokenBatches(windows, 4, seed=2)).arrays["encoder_input_tokens"]
    assert not np.array_equal(other, rows[:4])


def test_a_position_continues_exactly_and_rows_are_those_of_the_global_batch(file):
    windows = Windows.read(file)
    whole = TokenBatches(windows, 6, seed=5)
    for _ in range(4):
        position = next(whole).position
    mine = TokenBatches(Windows.read(file), 6, seed=5, rows=slice(2, 4))
    mine.restore(position)
    for _ in range(5):
        a, b = next(whole), next(mine)
        assert a.position == b.position and a.examples == b.examples and a.epoch == b.epoch
        for name, array in a.arrays.items():
            np.testing.assert_array_equal(b.arrays[name], array[2:4], err_msg=name)


def test_a_position_of_other_data_is_refused(file, sums):
    position = TokenBatches(Windows.read(file), 4, seed=1).position()
    with pytest.raises(ValueError, match=r"seed 1 .* seed 2"):
        TokenBatches(Windows.read(file), 4, seed=2).restore(position)
    with pytest.raises(ValueError, match="does not belong to this stream"):
        TokenBatches(Windows.read(file), 4, seed=2).restore(stream(sums, "packed").position())
    with pytest.raises(ValueError, match="does not belong to this stream"):
        stream(sums, "packed").restore(position | {"seed": 2})
    token_batches.write(file, stream(sums, "packed"), 2)
    with pytest.raises(ValueError, match=r"windows\.npz has changed since the checkpoint"):
        TokenBatches(Windows.read(file), 4, seed=1).restore(position)


def test_a_part_of_the_rows_is_not_written(sums, tmp_path):
    with pytest.raises(ValueError, match="whole global batches"):
        token_batches.write(tmp_path / "windows.npz", stream(sums, "packed", rows=slice(0, 4)), 1)
    with pytest.raises(ValueError, match="batches must be ≥ 1 or None; got 0"):
        token_batches.write(tmp_path / "windows.npz", stream(sums, "packed"), 0)
    assert not list(tmp_path.glob("windows*"))


def changed(name, change):
    def damage(arrays):
        arrays[name] = change(arrays[name].copy())

    return damage


def at(place, value):
    def change(array):
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda arrays: arrays.pop("decoder_positions"), r"arrays \['decoder_positions'\] are missing"),
        (lambda arrays: arrays.pop("examples"), r"arrays \['examples'\] are missing"),
        (lambda arrays: arrays.update(more=np.zeros(3)), r"arrays \['more'\] are not expected"),
        (changed("encoder_input_tokens", lambda a: a.astype(np.int64)), "is int64 .*, expected int32"),
        (changed("encoder_input_tokens", lambda a: a[:, :-1]), "the encoder's arrays have the shapes"),
        (changed("decoder_loss_weights", lambda a: a[0]), r"expected float32 \[windows, length\]"),
        (changed("examples", lambda a: a[:-1]), "expected one, of"),
        (changed("examples", lambda a: 0 * a), "the examples of all windows add up to 0"),
        (changed("examples", at(0, np.inf)), "examples has values from"),
        (changed("decoder_target_tokens", at((0, 0), -1)), "decoder_target_tokens has values from -1"),
        (changed("decoder_task_ids", at((0, 0), 3)), "decoder_task_ids has values from 0 to 3, expected 0 to 2"),
        (changed("decoder_positions", at((0, 0), 48)), "decoder_positions has values from 0 to 48, expected 0 to 47"),
        (changed("decoder_loss_weights", at((0, 0), np.nan)), "decoder_loss_weights has values from nan"),
        (changed("decoder_segment_ids", at(0, 0)), "a window has no target tokens"),
        (lambda arrays: arrays.update({name: a[:0] for name, a in arrays.items()}), "with no side 0"),
        (changed("examples", lambda a: a.astype(object)), "Object arrays cannot be loaded"),
    ],
)
def test_damaged_arrays(file, damage, message):
    with np.load(file) as loaded:
        arrays = dict(loaded)
    damage(arrays)
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        Windows.read(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def _pickled(data):
    held = io.BytesIO()
    np.save(held, np.array([{}], dtype=object))
    return held.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"not a zip",
        lambda data: data[: len(data) // 2],
        lambda data: data[:200] + bytes(100) + data[300:],
        _pickled,
    ],
)
def test_damaged_files(file, change):
    pathlib.Path(file).write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match="holds no token windows"):
        Windows.read(file)
    with pytest.raises(OSError):
        Windows.read(file.with_name("absent.npz"))
