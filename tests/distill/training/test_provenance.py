"""Fingerprints of data: the same rows in the same order have the same one, whatever the method."""

import subprocess
import sys

import jax
import pytest

from distill.data import cache
from distill.data.batches import BatchStream
from distill.data.packing import Layout
from distill.inference.evaluate import Evaluator
from distill.tasks import feeding, jsonl, registration
from distill.training import provenance
from distill.training.config import DataConfig
from tests_support import read_lines, write_lines, write_rows

FIELDS = {"input": "question", "rationale": "why", "label": "answer"}


def registered(folder, number=12, **settings):
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        write_rows(folder / f"{split}.jsonl", number)
    files = {split: folder / f"{split}.jsonl" for split in ("train", "test")}
    return registration.register(jsonl.dataset(files, name="rows", fields=FIELDS), "bytes", **settings)


def trained(name, seed=0):
    return provenance.of_training_data(BatchStream(name, Layout(4, 48, 48), seed=seed), name, "train")


def data(names, **more):
    return DataConfig(names.mixed, {"inputs": 48, "targets": 48}, batch_size=4, **more)


def scored(name, **more):
    return provenance.of_evaluation_data(Evaluator(name, "test", lambda *_: [], **more))


def test_the_fingerprint_is_of_the_rows_not_of_the_method_or_the_seed(tmp_path):
    names = registered(tmp_path / "a")
    train, test = trained(names.paired), scored(names.label)
    assert (train.split, test.rows, test.split) == ("train", 12, "test")
    assert trained(names.label, seed=5) == trained(names.mixed) == train
    assert scored(names.single) == scored(names.shared_label) == test
    elsewhere = registered(tmp_path / "b")  # the same rows in another folder
    assert (trained(elsewhere.paired), scored(elsewhere.label)) == (train, test)
    half = registered(tmp_path / "a", subsample=0.5, label_source="gold")
    assert trained(half.paired).fingerprint != train.fingerprint
    assert scored(half.label) == test  # every size is tested on the same rows
    prefixed = registered(tmp_path / "a", label_prefix="answer: ")
    assert trained(prefixed.paired).fingerprint != train.fingerprint  # other texts are learned
    assert scored(prefixed.label) == test


def test_the_fingerprint_of_rows_is_known_before_a_run(tmp_path):
    names = registered(tmp_path)
    train, test = trained(names.mixed).fingerprint, scored(names.label)
    assert provenance.training_rows(data(names)) == train
    assert provenance.evaluation_rows(names.label, "test", test.rows) == test.fingerprint
    changed = registered(tmp_path, 13)
    assert provenance.training_rows(data(changed)) != train
    assert provenance.evaluation_rows(changed.label, "test", test.rows) != test.fingerprint


def test_the_fingerprint_of_a_cache_is_that_of_its_rows(tmp_path):
    names = registered(tmp_path)
    train, folder = trained(names.mixed), tmp_path / "cache"
    read = provenance.rows_read(data(names), None)
    assert len(read) == 1
    cache.build([names.label, names.rationale], folder)
    (tmp_path / "train.jsonl").unlink()
    registration.call_of(names.label)()  # forgets the rows that it has read
    stream = BatchStream(names.mixed, Layout(4, 48, 48), cache_dir=folder)
    assert provenance.of_training_data(stream, names.mixed, "train") == train
    assert provenance.training_rows(data(names, cache_dir=str(folder))) == train.fingerprint
    assert provenance.rows_read(data(names, cache_dir=str(folder)), None) == read


def test_changed_files_of_a_cache_are_changed_rows(tmp_path, monkeypatch):
    names = registered(tmp_path)
    before, given = {"train": trained(names.mixed)}, data(names, cache_dir=str(tmp_path / "cache"))
    cache.build([names.label, names.rationale], given.cache_dir)
    assert provenance.changed_rows(before, given, None) == []
    names = registered(tmp_path, 13)
    assert provenance.changed_rows(before, given, None) == ["train"]
    (tmp_path / "train.jsonl").unlink()
    registration.call_of(names.label)()  # forgets the rows that it has read
    assert provenance.changed_rows(before, given, None) == [], "training from a cache needs no files"
    registered(tmp_path, 13)
    monkeypatch.setattr(jsonl.JsonLines, "may_download", True, raising=False)
    assert provenance.changed_rows(before, given, None) == []


@pytest.mark.parametrize(
    "switch",
    [
        {"rationales": "all"},
        {"rationales": "all", "teacher_prefixes": {"long": "[rationale] ", "short": "___ "}},
        {"key_tokens": "label"},
        {"label_source": "teacher", "soft_labels": True},
        {"label_source": "teacher", "confidence": "both"},
        {"single_order": "label_first"},
        {"label_source": "teacher", "on_disagreement": "drop_rationale"},
    ],
)
def test_switches_of_the_method_are_scored_on_the_same_rows(tmp_path, switch):
    plain = scored(registered(tmp_path / "a").label)
    assert scored(registered(tmp_path / "a", **switch).label) == plain


def test_runs_of_two_teachers_are_scored_on_the_same_rows(tmp_path):
    names = registered(tmp_path / "a")
    label, rationale = scored(names.label), scored(names.rationale)
    lines = read_lines(tmp_path / "a/test.jsonl")
    other = [row | {"why": "Because.", "teacher": "7"} for row in lines]
    write_lines(tmp_path / "b/test.jsonl", other)
    write_rows(tmp_path / "b/train.jsonl", 12)
    files = {split: tmp_path / f"b/{split}.jsonl" for split in ("train", "test")}
    fields = FIELDS | {"llm_label": "teacher"}
    names = registration.register(jsonl.dataset(files, name="rows", fields=fields), "bytes")
    assert scored(names.label) == label
    assert scored(names.rationale) != rationale  # scored against other texts
    unlabelled = {key: fields[key] for key in fields if key != "label"}  # the teacher's label is the target
    names = registration.register(jsonl.dataset(files, name="rows", fields=unlabelled), "bytes", label_source="teacher")
    assert scored(names.label) != label


def test_fingerprints_are_of_the_rows_that_a_run_has_read(tmp_path, monkeypatch):
    names = registered(tmp_path / "a")
    before = trained(names.paired), scored(names.label), scored(names.rationale)
    names = registered(tmp_path / "a")
    stream, evaluators = BatchStream(names.mixed, Layout(4, 48, 48)), (names.label, names.rationale)
    texts = [Evaluator(name, "test", lambda *_: []).texts() for name in evaluators]
    for split in ("train", "test"):  # edited after they were read
        write_rows(tmp_path / f"a/{split}.jsonl", 5, start=50)
    monkeypatch.setattr(feeding, "rows", lambda *args: pytest.fail("the rows are read again"))
    assert (provenance.of_training_data(stream, names.mixed, "train"), *map(scored, evaluators)) == before
    next(stream)
    assert [Evaluator(name, "test", lambda *_: []).texts() for name in evaluators] == texts


def test_other_rows_another_order_and_a_part_have_other_fingerprints(tmp_path):
    found = {scored(registered(tmp_path / "a").label).fingerprint}
    found.add(scored(registered(tmp_path / "a").label, max_examples=5).fingerprint)
    names = registered(tmp_path / "b")
    lines = (tmp_path / "b/test.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b/test.jsonl").write_text("".join(lines[::-1]))
    found.add(scored(names.label).fingerprint)
    (tmp_path / "b/test.jsonl").write_text("".join(lines).replace("3", "4"))
    files = {split: tmp_path / f"b/{split}.jsonl" for split in ("train", "test")}
    names = registration.register(jsonl.dataset(files, name="rows", fields=FIELDS), "bytes")
    found.add(scored(names.label).fingerprint)
    assert len(found) == 4


def test_the_revision_is_that_of_the_package_and_of_no_other_checkout(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    assert provenance._revision(tmp_path) == (None, None)
    git("init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    git("add", "code.py")
    git("commit", "-qm", "one")
    revision, modified = provenance._revision(tmp_path)
    assert (len(revision), modified) == (40, False)
    (tmp_path / "new.txt").write_text("an untracked file does not count")
    assert provenance._revision(tmp_path) == (revision, False)
    (tmp_path / "code.py").write_text("2\n")
    assert provenance._revision(tmp_path) == (revision, True)
    (tmp_path / "site-packages").mkdir()
    assert provenance._revision(tmp_path / "site-packages") == (None, None)


def test_the_code_and_the_machine():
    code, machine = provenance.code(), provenance.environment(devices=2)
    assert provenance.code() is code  # a later revision is not the one that this process has loaded
    assert code.versions["jax"] == jax.__version__
    assert (machine.devices, machine.processes, machine.device_kind) == (2, 1, "cpu")
    assert machine.python == sys.version.split()[0]
    assert machine.processor and machine.host
