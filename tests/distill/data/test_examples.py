"""Random access to the examples of a task: lengths, tokens and order; errors for tasks that lack what they train on."""

import json

import numpy as np
import pytest

from distill.data import examples, features
from distill.data.packing import Layout
from distill.tasks import jsonl, registration, task_ids

ROWS = [
    {"question": "ab?", "answer": "1", "why": "because"},
    {"question": "c", "answer": "22"},
    {"question": "def", "answer": "3", "why": "so"},
]
LAYOUT = Layout(4, 32, 16, False)


def register(folder, rows, name):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"input": "question", "rationale": "why", "label": "answer"}
    files = dict.fromkeys(("train", "validation", "test"), path)  # otherwise rows of train are held out
    return registration.register(jsonl.dataset(files, name=name, fields=fields), "bytes")


@pytest.fixture
def paired(tmp_path):
    return registration.get(register(tmp_path, ROWS, "three_rows").paired)


def decoded(tokens):
    """Text of ids of the byte vocabulary: 3 + the byte."""
    return bytes(int(token) - 3 for token in tokens if token > 2).decode()


def test_every_row_has_a_label_and_a_rationale_or_nothing_in_its_place(paired):
    found = examples.SeqioExamples(paired, "train", 0, LAYOUT)
    assert found.size == 3
    lengths = found.lengths(0)
    assert lengths.shape == (3, 2, 2) and lengths.dtype == np.int32
    # A target is its bytes and EOS; a sequence without target tokens is absent.
    assert lengths[:, :, 1].tolist() == [[2, 8], [3, 0], [2, 3]]
    assert found.counts.sequences == {task_ids.LABEL: 3, task_ids.RATIONALE: 2}
    assert found.counts.share_truncated() == 0.0


def test_a_sample_has_rows_at_equal_distances_and_counts_what_is_cut(paired, monkeypatch):
    whole = examples.SeqioExamples(paired, "train", 0, LAYOUT)
    found, counts, all_rows = examples.sample(paired, "train", LAYOUT)
    assert whole.size == 3 and counts == whole.counts and all_rows
    assert found.target_lengths.tolist() == [2, 8, 3, 2, 3]
    monkeypatch.setattr(examples, "SAMPLE", 2)
    found, counts, all_rows = examples.sample(paired, "train", Layout(4, 32, 4, False))
    assert not all_rows
    monkeypatch.setattr(type(paired), "num_input_examples", lambda *_: None)  # of a source that does not know it
    assert not examples.sample(paired, "train", LAYOUT)[2]
    monkeypatch.setattr(examples, "SAMPLE", 4)
    assert examples.sample(paired, "train", LAYOUT)[2]
    assert found.target_lengths.tolist() == [2, 4, 2, 3]  # of the first and the third row
    assert counts.truncated_targets == {task_ids.LABEL: 0, task_ids.RATIONALE: 1}


def test_examples_are_read_in_the_order_requested(paired):
    found = examples.SeqioExamples(paired, "train", 0, LAYOUT)
    read = found.read(0, np.asarray([2, 0]))
    assert read.target_lengths.tolist() == [2, 3, 2, 8]
    pairs = found.lengths(0)[[2, 0]].reshape(-1, 2)
    np.testing.assert_array_equal(read.input_lengths, pairs[:, 0])


def test_targets_are_truncated_to_the_window_and_counted(paired):
    found = examples.SeqioExamples(paired, "train", 0, Layout(4, 32, 4, False))
    assert found.lengths(0)[:, :, 1].max() == 4
    assert found.counts.truncated_targets == {task_ids.LABEL: 0, task_ids.RATIONALE: 1}
    assert found.counts.share_truncated() == 1 / 5


def test_the_fingerprint_depends_on_the_content_of_the_rows(tmp_path):
    def fingerprint(folder, rows):
        (tmp_path / folder).mkdir()
        task = registration.get(register(tmp_path / folder, rows, "printed").paired)
        return examples.fingerprint(task, "train", examples.SeqioExamples(task, "train", 0, LAYOUT))

    first = fingerprint("a", ROWS)
    assert len(first) == 64
    assert fingerprint("b", ROWS) == first
    changed = [{**ROWS[0], "question": "ac?"}, *ROWS[1:]]  # of equal lengths
    assert fingerprint("c", changed) != first
    assert fingerprint("d", ROWS[::-1]) != first


def test_a_task_without_any_rationale_is_refused(tmp_path):
    rows = [{"question": "a", "answer": "1", "why": None}, {"question": "b", "answer": "2", "why": None}]
    task = registration.get(register(tmp_path, rows, "no_reasons").paired)
    with pytest.raises(ValueError, match=r"'no_reasons.*none of 2 rows of split 'train' has a rationale"):
        examples.check_both_tasks(task, examples.SeqioExamples(task, "train", 0, LAYOUT), "train")


def test_rows_without_a_rationale_are_counted_in_a_warning(paired, caplog, monkeypatch):
    messages = []
    monkeypatch.setattr(examples.logging, "warning", lambda text, *args: messages.append(text % args))
    examples.check_both_tasks(paired, examples.SeqioExamples(paired, "train", 0, LAYOUT), "train")
    assert messages == [f"{paired.name}, train: 1 of 3 rows has no rationale and is trained on the label alone"]


def test_the_error_of_an_unusable_split_names_the_task():
    error = examples.nothing_usable("some_task", "test")
    assert isinstance(error, ValueError)
    assert "'some_task' has no usable example in split 'test'" in str(error)


def test_seeds_differ_by_seed_epoch_and_name():
    arguments = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    seeds = [examples.draw_seed(*one) for one in arguments]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert [examples.draw_seed(*one) for one in arguments] == seeds
    assert examples.name_seed("a") == 0xE8B7BE43  # CRC-32 of the letter a


def test_counts_add_up():
    total = features.Counts()
    one = features.Counts({1: 2, 2: 1}, {1: 1, 2: 0}, {1: 0, 2: 1}, {1: 1, 2: 1})
    total.add(one)
    total.add(one)
    assert total.sequences == {1: 4, 2: 2}
    assert total.share_truncated() == 4 / 6
