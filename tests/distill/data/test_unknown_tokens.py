"""Training rows with tokens that the vocabulary does not know are refused or named."""

import json

import pytest

from distill.data import batches, cache, examples, unknown_tokens
from distill.data.packing import Layout
from distill.tasks import jsonl, registration
from distill.tools import vocabulary

LAYOUT = Layout(4, 64, 32, True)
LETTERS = ["the cat sat on a mat [label] [rationale] So the answer is"] * 5


def task(tmp_path, name, labels, whys, form="paired"):
    model = tmp_path / "letters.model"
    model.write_bytes(vocabulary.train(LETTERS, 26))
    rows = [{"question": "a cat", "answer": label, "why": why} for label, why in zip(labels, whys, strict=True)]
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"input": "question", "label": "answer", "rationale": "why"}
    dataset = jsonl.dataset({"train": path}, name=name, fields=fields, validation_fraction=0.0)
    return registration.get(getattr(registration.register(dataset, str(model)), form))


def checked(task, monkeypatch):
    said = []
    monkeypatch.setattr(unknown_tokens.logging, "warning", lambda text, *args: said.append(text % args))
    unknown_tokens.check(task, examples.SeqioExamples(task, "train", 0, LAYOUT), "train")
    return said


@pytest.mark.parametrize("form", ["paired", "label", "single"])
def test_labels_that_cannot_be_written_are_refused(tmp_path, form):
    given = task(tmp_path, f"digits_{form}", ["( 1 )", "( 2 )", "a"], ["the cat"] * 3, form)
    with pytest.raises(ValueError, match=r"2 of 3 labels in a sample of 'digits_.*'train', have tokens .* as .*⁇") as e:
        batches.BatchStream(given.name, LAYOUT)
    assert "the student cannot learn to write these. `distill data` counts these rows" in str(e.value)
    assert "--required_characters, or VOCABULARY_PATH" in str(e.value)


def test_few_labels_and_many_rationales_are_warned_of(tmp_path, monkeypatch):
    label, rationale = checked(task(tmp_path, "some", ["a", "2", "a", "a"], ["7 cats", "a", "8", "a"]), monkeypatch)
    assert label.startswith("1 of 4 labels in a sample of 'some_paired', split 'train', has tokens that the vocabulary")
    assert rationale.startswith("2 of 4 rationales in a sample of 'some_paired', split 'train', have tokens")


def test_rare_unknown_tokens_of_rationales_are_not_mentioned(tmp_path, monkeypatch):
    whys = ["a cat"] * 99 + ["7 cats"]
    assert checked(task(tmp_path, "rare", ["a"] * 100, whys), monkeypatch) == []
    whys = ["a cat"] * 97 + ["7 cats"] * 3
    (found,) = checked(task(tmp_path, "frequent", ["a"] * 100, whys), monkeypatch)
    assert found.startswith("3 of 100 rationales")


def test_a_sample_is_read_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(unknown_tokens, "SAMPLE", 10)
    (found,) = checked(task(tmp_path, "spread", [*["a"] * 99, "7"], ["a"] * 100), monkeypatch)
    assert found.startswith("1 of 10 labels")


def test_a_cache_is_checked_alike(tmp_path):
    given = task(tmp_path, "kept", ["1", "2", "3"], ["a"] * 3)
    cache.build([given.name], tmp_path / "cache")
    with pytest.raises(ValueError, match="3 of 3 labels"):
        batches.BatchStream(given.name, LAYOUT, cache_dir=tmp_path / "cache")
