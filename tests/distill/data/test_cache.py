"""The cache: the same batches as without it, deterministic bytes, and errors for damage and other settings."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data import cache, features, trimming
from distill.data.batches import BatchStream
from distill.data.cache import manifest
from distill.data.cache import read as cache_read
from distill.data.packing import Layout, Sequences, TokenPair
from distill.tasks import feeding, jsonl, reading, registration
from distill.training.train import DataConfig
from tests_support import files_of, write_rows

FIELDS = {"input": "question", "rationale": "why", "label": "answer"}


def dataset(folder, **changes):
    files = {split: folder / f"{split}.jsonl" for split in ("train", "test")}
    return jsonl.dataset(files, name="cached", fields=FIELDS, **changes)


def tasks(names):
    return (names.label, names.rationale, names.single, names.paired, names.shared)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with rows of two splits; a tenth of the training rows becomes the third."""
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "train.jsonl", 60)
    write_rows(folder / "test.jsonl", 7, start=60)
    return folder


@pytest.fixture(scope="module")
def built(rows, tmp_path_factory):
    """A cache of these rows with three shards per split; copy it before damaging it."""
    names = registration.register(dataset(rows), "bytes")
    directory = tmp_path_factory.mktemp("cache") / "cached"
    return cache.build(tasks(names), directory, shards=3).directory


@pytest.fixture
def names(rows):
    return registration.register(dataset(rows), "bytes")


def assert_same(got, wanted):
    assert got.position == wanted.position
    assert got.examples == wanted.examples
    assert got.arrays.keys() == wanted.arrays.keys()
    for name, value in wanted.arrays.items():
        np.testing.assert_array_equal(got.arrays[name], value, err_msg=name)
        assert got.arrays[name].dtype == value.dtype


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("form", ["paired", "mixed", "single", "label", "rationale", "shared"])
def test_batches_are_those_without_a_cache(names, built, form, packed):
    shared = form == "shared"
    for layout in (
        Layout(4, 64, 64, packed, shared),
        Layout(6, 18, 12, packed, shared),
    ):  # the second truncates both sides
        plain = BatchStream(getattr(names, form), layout, seed=4)
        cached = BatchStream(getattr(names, form), layout, seed=4, cache_dir=built)
        for _ in range(12):
            assert_same(next(cached), next(plain))
        assert cached.counts == plain.counts
        assert plain.epoch() > 0
        if layout.decoder_length == 12 and form != "label":
            assert sum(cached.counts.truncated_targets.values()) > 0


def described(stream, names, form):
    rows = stream.rows_of(getattr(names, form))
    known = rows.rows_sha256("train"), rows.num_input_examples("train"), rows.num_with_rationale("train")
    return *known, rows.input_keys("train").tolist()


@pytest.mark.parametrize("form", ["paired", "single"])
def test_a_cache_is_read_without_the_files_of_its_rows(names, built, tmp_path, form):
    layout = Layout(4, 64, 64)
    plain = BatchStream(getattr(names, form), layout, seed=4)
    batches, position = [next(plain) for _ in range(6)], plain.position()
    wanted = described(plain, names, form)
    names = registration.register(dataset(tmp_path), "bytes")  # of files that are missing
    cached = BatchStream(getattr(names, form), layout, seed=4, cache_dir=built)
    for batch in batches:
        assert_same(next(cached), batch)
    assert described(cached, names, form) == wanted
    assert wanted[1:3] == (58, 46)
    cached.restore(position)  # a run on the files goes on from the cache
    assert cache.counts(built, getattr(names, form), "train", layout) == plain.counts


@pytest.mark.parametrize("form", ["label", "mixed"])
def test_files_with_other_rows_than_the_cache_are_refused(rows, built, tmp_path, form):
    shutil.copytree(rows, tmp_path / "rows")
    with (tmp_path / "rows/train.jsonl").open("a") as file:
        file.write(json.dumps({"question": "one more?", "answer": "yes"}) + "\n")
    changed = registration.register(dataset(tmp_path / "rows"), "bytes")
    wanted = r"the files of split 'train' hold other rows than the cache at .*: expected the hash \w{12}…, got \w{12}…"
    with pytest.raises(ValueError, match=wanted) as caught:
        BatchStream(getattr(changed, form), Layout(4, 64, 64), cache_dir=built)
    assert str(caught.value).endswith("Build another with `distill cache`, or set CACHE_DIR=None.")
    shutil.copy(rows / "train.jsonl", tmp_path / "rows/train.jsonl")
    BatchStream(getattr(changed, form), Layout(4, 64, 64), cache_dir=built)


def test_data_that_reading_may_download_is_not_read_beside_a_cache(built, rows):
    class Published(jsonl.JsonLines):
        may_download = True

        def __call__(self, split, report=None):
            pytest.fail("read")

    given = dataset(rows)
    source = feeding.RecordDataSource(given.replace(source=Published({"train": "absent.jsonl"}, FIELDS)))
    cache.check_rows(built, "another hash", source, "train")


def test_restored_streams_and_processes_agree_with_and_without_the_cache(names, built):
    layout = Layout(4, 64, 64)
    whole = BatchStream(names.paired, layout, seed=2)
    batches = [next(whole) for _ in range(9)]
    parts = [BatchStream(names.paired, layout, seed=2, rows=slice(at, at + 2), cache_dir=built) for at in (0, 2)]
    for part in parts:
        part.restore(json.loads(json.dumps(batches[4].position)))
    for batch in batches[5:]:
        pieces = [next(part) for part in parts]
        for name, value in batch.arrays.items():
            np.testing.assert_array_equal(np.concatenate([piece.arrays[name] for piece in pieces]), value)


def test_a_process_reads_only_the_examples_of_its_rows(names, built):
    layout, asked = Layout(8, 64, 64), []
    stream = BatchStream(names.label, layout, rows=slice(0, 2), cache_dir=built)
    examples = stream._sources[names.label].examples
    read = examples.read
    examples.read = lambda epoch, numbers: asked.extend(numbers.tolist()) or read(epoch, numbers)
    batch = next(stream)
    mine = int(batch.arrays["encoder_segment_ids"].max(axis=1).sum())
    assert len(asked) == mine < batch.examples


def test_builds_are_deterministic(rows, built, tmp_path):
    names = registration.register(dataset(rows), "bytes")
    again = cache.build(tasks(names), tmp_path / "again", shards=3)
    assert again.new
    files = files_of(built)
    assert files == files_of(again.directory)
    assert sum(".array_record-" in name for name in files) > 24
    assert not (tmp_path / "again.partial").exists()


def test_shards_are_tfds_data_sets(names, built):
    source = tfds.builder_from_directory(os.fspath(built / names.paired / "1.0.0")).as_data_source("train")
    wanted = list(reading.examples(registration.get(names.paired), "train", only_tokens=True))
    assert len(source) == len(wanted) > 40
    for number in (0, 4, len(wanted) - 1):  # the fifth row has no rationale
        example = source[number]
        assert example.keys() == wanted[number].keys()
        for name, value in wanted[number].items():
            np.testing.assert_array_equal(example[name], value, err_msg=name)


def test_tfds_loads_the_tfrecords_next_to_the_shards(names, built, tmp_path):
    some = (names.label, names.paired)
    directory = cache.build(some, tmp_path / "cache", shards=3, tfrecord=True).directory
    files, plain = files_of(directory), files_of(built)
    added = sorted(files.keys() - plain.keys())
    assert sum("paired-train.tfrecord-" in name for name in added) == 3
    assert all(".tfrecord-" in name for name in added)
    in_order = tfds.ReadConfig(interleave_cycle_length=1)  # otherwise shards are interleaved
    for split in ("train", "test"):
        loaded = tfds.load(names.paired, data_dir=directory, split=split, read_config=in_order)
        dataset = list(tfds.as_numpy(loaded))
        source = tfds.data_source(names.paired, data_dir=directory, split=split)
        assert len(source) == len(dataset) > 6
        for example, wanted in zip(source, dataset, strict=True):
            assert example.keys() == wanted.keys()
            for name, value in wanted.items():
                np.testing.assert_array_equal(example[name], value, err_msg=name)
    assert_same(
        next(BatchStream(names.paired, Layout(4, 64, 64), cache_dir=directory)),
        next(BatchStream(names.paired, Layout(4, 64, 64), cache_dir=built)),
    )
    with pytest.raises(ValueError, match="tfrecord is True there and False here"):
        cache.build(some, directory, shards=3)
    with pytest.raises(NotImplementedError, match="not implemented for ArrayRecord files"):
        tfds.load(names.paired, data_dir=built, split="train")
    (directory / added[0]).write_bytes(b"")
    next(BatchStream(names.paired, Layout(4, 64, 64), cache_dir=directory))  # training reads none of them
    with pytest.raises(ValueError, match=r"tfrecord-00000-of-0000\d has 0 bytes and should have"):
        cache.build(some, directory, shards=3, tfrecord=True)


def test_an_existing_cache_is_checked_and_reused(rows, names, built, tmp_path):
    before = (built / "manifest.json").stat()
    assert not cache.build(tasks(names), built, shards=3).new
    assert (built / "manifest.json").stat() == before
    with pytest.raises(ValueError, match=r"shards is 3 there and 2 here.*Choose another --output"):
        cache.build(tasks(names), built, shards=2)
    copy = tmp_path / "rows"
    shutil.copytree(rows, copy)
    with (copy / "train.jsonl").open("a") as file:
        file.write(json.dumps({"question": "one more?", "answer": "yes"}) + "\n")
    changed = registration.register(dataset(copy), "bytes")
    with pytest.raises(ValueError) as caught:
        cache.build(tasks(changed), built, shards=3)
    assert str(caught.value) == (
        f"the rows of split 'train' are others than those that the cache at {built} was built from; restore them, or "
        "choose another --output, or delete the folder and build the cache again"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"is not empty and holds no cache, but thesis\.tex; choose another --output"):
        cache.build(tasks(names), tmp_path / "full")
    assert (tmp_path / "full" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_prefix": "[answer] "}, r"label_prefix is '\[label\] ' there and '\[answer\] ' here"),
        ({"subsample": 0.5}, "selection.subsample is 1.0 there and 0.5 here"),
        ({"label_source": "teacher"}, "selection.label_source is 'gold' there and 'teacher' here"),
        ({"vocabulary": "nature.model"}, "vocabulary is 'ByteVocabulary' there and 'SentencePieceVocabulary' here"),
        ({"split_seed": 3}, "dataset.split_seed is 0 there and 3 here"),
        ({"encoder_bos": True}, "encoder_bos is None there and True here"),
    ],
)
def test_other_settings_are_rejected_by_name(rows, built, tmp_path, changes, message):
    changes = dict(changes)
    given = dataset(rows, **{key: changes.pop(key) for key in ("split_seed",) if key in changes})
    vocabulary = changes.pop("vocabulary", "bytes")
    if vocabulary != "bytes":
        vocabulary = sentencepiece_model(tmp_path / vocabulary)
    names = registration.register(given, vocabulary, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        BatchStream(names.paired, Layout(4, 64, 64), cache_dir=built)
    assert "\n" not in str(caught.value)


def sentencepiece_model(path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(f"{a} plus {b} is {a + b}." for a in range(9) for b in range(9)),
        model_writer=(stream := path.open("wb")), vocab_size=40, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    stream.close()
    return str(path)


def test_damage_is_reported(names, built, tmp_path):
    def damaged(harm):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(built, copy)
        harm(copy)
        return copy

    def open_it(directory):
        return BatchStream(names.paired, Layout(4, 64, 64), cache_dir=directory)

    shard = "cached_paired/1.0.0/cached_paired-train.array_record-00001-of-00003"

    def flip(folder):
        data = bytearray((folder / shard).read_bytes())
        data[-5] ^= 1
        (folder / shard).write_bytes(data)

    with pytest.raises(ValueError, match=r"00001-of-00003 does not have the SHA-256"):
        open_it(damaged(flip))
    with pytest.raises(ValueError, match=r"00001-of-00003 has 100 bytes and should have [\d,]+;"):
        open_it(damaged(lambda folder: (folder / shard).write_bytes((folder / shard).read_bytes()[:100])))
    with pytest.raises(ValueError, match=r"00001-of-00003 is missing"):
        open_it(damaged(lambda folder: (folder / shard).unlink()))
    with pytest.raises(ValueError, match=r"cached_paired-train.npy has"):
        open_it(damaged(lambda folder: (folder / "index" / "cached_paired-train.npy").write_bytes(b"")))
    with pytest.raises(ValueError, match=r"holds no finished cache \(manifest.json is missing\)"):
        open_it(damaged(lambda folder: (folder / "manifest.json").unlink()))
    with pytest.raises(ValueError, match="is no manifest of a cache"):
        open_it(damaged(lambda folder: (folder / "manifest.json").write_text('{"form')))
    with pytest.raises(ValueError, match="is of format 1; this version reads format 2"):
        open_it(damaged(lambda folder: (folder / "manifest.json").write_text('{"format": 1}')))
    with pytest.raises(ValueError, match=r"input_keys.train\.npy has 0 bytes"):
        open_it(damaged(lambda folder: (folder / "input_keys" / "train.npy").write_bytes(b"")))
    other = damaged(lambda folder: np.save(folder / "input_keys" / "train.npy", np.zeros(3, np.int64)))
    with pytest.raises(ValueError, match=r"train\.npy holds int64 \(3,\) and should hold int64 \(58,\); delete"):
        cache.known_rows(other, names.paired, "train").input_keys("train")
    # Files of another split are not checked.
    other = damaged(lambda folder: (folder / shard.replace("train", "test").replace("00001", "00000")).unlink())
    next(open_it(other))


FILE = {"file": "index/a.npy", "bytes": 3, "sha256": "0" * 64}
ENTRY = {"examples": 1, "slots": 1, "index": FILE, "shards": [FILE | {"examples": 1}]}
ROWS = {"records": 1, "with_rationale": 0, "input_keys": FILE}
MANIFEST = {"format": 2, "settings": {}, "rows": {"train": ROWS}, "rows_sha256": {"train": "0" * 64}}
MANIFEST |= {"tasks": {"a_label": {"train": ENTRY}}}


@pytest.mark.parametrize(
    "changed",
    [
        b"[" * 100_000, b"\xff", b"[]", b'{"format": [1]}', b'{"format": true}', {"settings": None}, {"tasks": []},
        {"tasks": {"a": {"train": {"examples": 0, "slots": 1, "shards": []}}}}, {"tasks": {"a\n": {}}},
        {"tasks": {"a": None}}, {"tasks": {"a": {"train": []}}}, {"rows": {}}, {"rows": []}, {"rows": {"train": None}},
        {"rows_sha256": {}}, {"rows_sha256": {"train": "0\n"}}, {"rows_sha256": None},
        *({"rows": {"train": ROWS | part}} for part in (
            {"records": -1}, {"with_rationale": None}, {"input_keys": "a"}, {"input_keys": FILE | {"file": "../a"}},
        )),
        *({"tasks": {"a": {"train": ENTRY | part}}} for part in (
            {"examples": -1}, {"examples": "1"}, {"examples": True}, {"slots": 2**64}, {"index": None}, {"index": [1]},
            {"shards": None}, {"shards": [None]}, {"shards": [FILE]}, {"tfrecords": 3}, {"tfrecords": [{"file": "a"}]},
            {"index": FILE | {"bytes": "3"}}, {"index": FILE | {"bytes": None}}, {"index": FILE | {"sha256": 0}},
            {"index": FILE | {"file": "../a"}}, {"index": FILE | {"file": "/etc/passwd"}}, {"index": FILE | {"file": ""}},
            {"index": FILE | {"file": "a/../../b"}}, {"index": FILE | {"file": "a\0"}},
            {"index": FILE | {"file": "a\ud800"}}, {"index": FILE | {"file": "a" * 300}},
            {"index": FILE | {"sha256": "0\n"}}, {"index": FILE | {"file": ["a"]}},
        )),
    ],
)  # fmt: skip
def test_a_manifest_of_another_form_is_refused_by_name(tmp_path, changed):
    """Found by fuzzing: most of these raised TypeError or KeyError, and a file could be named outside of the folder."""
    path = tmp_path / manifest.FILE
    path.write_text(json.dumps(MANIFEST))
    assert manifest.read(tmp_path) == MANIFEST
    path.write_bytes(changed if isinstance(changed, bytes) else json.dumps(MANIFEST | changed).encode())
    with pytest.raises(ValueError, match=r"manifest\.json") as caught:
        manifest.read(tmp_path)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_unknown_tasks_and_splits(names, built):
    other = registration.register(
        jsonl.dataset({"train": "absent.jsonl"}, name="cachet", fields=FIELDS, validation_fraction=0.0), "bytes"
    )
    with pytest.raises(ValueError, match=r"has no task 'cachet_label'; did you mean 'cached_label'\?"):
        BatchStream(other.label, Layout(4, 64, 64), cache_dir=built)
    with pytest.raises(ValueError, match=r"has no split 'trian'; did you mean 'train'\?"):
        BatchStream(names.label, Layout(4, 64, 64), split="trian", cache_dir=built)


def test_random_rationales_are_rejected(tmp_path):
    rows = [{"input": f"q{i}", "label": "a", "rationales": [f"why {i}", f"because {i}"]} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    several = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="several", validation_fraction=0.0)
    names = registration.register(several, "bytes")
    with pytest.raises(ValueError, match=r"rows of split 'train' have several rationales.*rationales=first"):
        cache.build(tasks(names), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    names = registration.register(several, "bytes", rationales="first")
    assert cache.build(tasks(names), tmp_path / "cache").manifest["tasks"][names.paired]["train"]["examples"] == 8


def test_an_interrupted_build_resumes(names, built, tmp_path):
    started = []

    def interrupt(task, split, done, total):
        started.append((task, split))
        if task == names.single and split == "test" and done == 3:
            raise KeyboardInterrupt

    output = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        cache.build(tasks(names), output, shards=3, on_progress=interrupt)
    assert not output.exists()
    told = []
    assert cache.build(
        tasks(names), output, shards=3, on_progress=lambda task, split, *_: told.append((task, split))
    ).new
    assert set(told) == {
        (names.single, "test"),
        *((name, split) for name in (names.paired, names.shared) for split in ("train", "validation", "test")),
    }
    assert files_of(output) == files_of(built)
    # Parts that were built with other settings are not reused.
    stage = tmp_path / "other.partial"
    shutil.copytree(output, stage)
    entries = json.loads((output / "manifest.json").read_text())["tasks"]
    done = {f"{names.label}/{split}": entry for split, entry in entries[names.label].items()}
    (stage / "progress.json").write_text(
        json.dumps({"header": {"format": 0, "task_names": tasks(names)}, "done": done})
    )
    told.clear()
    given = {"shards": 3, "on_progress": lambda task, split, *_: told.append((task, split))}
    cache.build([names.label], tmp_path / "other", **given)
    assert {split for _, split in told} == {"train", "validation", "test"}


@pytest.mark.parametrize("progress", [None, "{", '{"header": {}, "done": {}}'])
def test_a_folder_that_no_build_wrote_is_not_taken_for_an_interrupted_build(names, tmp_path, progress):
    (tmp_path / "big.partial/thesis").mkdir(parents=True)
    (tmp_path / "big.partial/thesis/1.txt").write_text("words")
    if progress:
        (tmp_path / "big.partial/progress.json").write_text(progress)
    wanted = (
        r"big\.partial is the folder in which this cache is built, and holds \w.*, which no build of a cache wrote: "
    )
    with pytest.raises(ValueError, match=wanted):
        cache.build([names.label], tmp_path / "big")
    assert (tmp_path / "big.partial/thesis/1.txt").read_text() == "words" and not (tmp_path / "big").exists()
    (tmp_path / "one.partial").write_text("words")
    with pytest.raises(ValueError, match=r"holds one\.partial, which no build"):
        cache.build([names.label], tmp_path / "one")
    (tmp_path / "new.partial").mkdir()  # interrupted before anything was noted
    assert cache.build([names.label], tmp_path / "new").new


def test_a_split_without_examples_for_a_task(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"input": "x", "label": "y"}\n')
    only_labels = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="labels", validation_fraction=0.0)
    names = registration.register(only_labels, "bytes")
    directory = cache.build(tasks(names), tmp_path / "cache").directory
    assert next(BatchStream(names.label, Layout(1, 64, 64, packed=False), cache_dir=directory)).examples == 1
    with pytest.raises(ValueError, match=r"none of 1 row of split 'train' has a rationale"):
        BatchStream(names.paired, Layout(1, 64, 64, packed=False), cache_dir=directory)
    with pytest.raises(ValueError, match="task 'labels_rationale' has no usable example in split 'train'"):
        BatchStream(names.rationale, Layout(1, 64, 64), cache_dir=directory)


def test_remote_folders_are_copied_and_checked(names, built, tmp_path, monkeypatch):
    remote = tmp_path / "bucket"
    monkeypatch.setattr(manifest, "is_local", lambda path: not os.fspath(path).startswith(os.fspath(remote)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    for place in ("thesis.tex", "words/thesis.tex"):
        (remote / place).parent.mkdir(parents=True)
        (remote / place).write_text("words")
        with pytest.raises(
            ValueError, match=r"bucket is not empty and holds no cache, but (thesis\.tex|words); choose"
        ):
            cache.build(tasks(names), remote, shards=3)
        shutil.rmtree(remote)
    (remote / "index").mkdir(parents=True)  # of an interrupted upload
    uploaded = cache.build(tasks(names), remote, shards=3)
    assert files_of(remote) == files_of(built)
    assert list((tmp_path / "scratch").iterdir()) == []
    plain = BatchStream(names.paired, Layout(4, 64, 64))
    assert_same(next(BatchStream(names.paired, Layout(4, 64, 64), cache_dir=uploaded.directory)), next(plain))
    (copies,) = (tmp_path / "scratch").iterdir()
    held = files_of(copies)
    held.pop("machine")  # identifies the processes that share the copies
    assert held.pop("input_keys/train.npy")
    assert len(held) == 4
    assert all("cached_paired-train" in name for name in held)
    shutil.rmtree(remote / names.paired)  # the copies are reused
    BatchStream(names.paired, Layout(4, 64, 64), cache_dir=remote)
    shutil.rmtree(copies)
    with pytest.raises(ValueError, match=r"00000-of-00003 is missing"):
        BatchStream(names.paired, Layout(4, 64, 64), cache_dir=remote)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 9)), min_size=1, max_size=12),
    ends=st.booleans(),
)
def test_truncating_a_batch_equals_truncating_each_sequence(lengths, ends):
    layout = Layout(1, 6, 4)
    rng = np.random.default_rng(len(lengths))

    def tokens(number):
        found = rng.integers(2, 90, number).astype(np.int32)
        found[number - 1 : number] = 1 if ends else 7
        return found

    pairs = [
        TokenPair(tokens(n if m else 0), tokens(m), np.full(m, 1, np.int32), rng.random(m).astype(np.float32))
        for n, m in lengths
    ]
    counts, wanted = features.Counts(), []
    for pair in pairs:
        counts.sequences[1] += len(pair.targets) > 0
        counts.truncated_inputs[1] += len(pair.inputs) > 6
        counts.truncated_targets[1] += len(pair.targets) > 4
        counts.truncated[1] += len(pair.targets) > 0 and (len(pair.inputs) > 6 or len(pair.targets) > 4)
        counts.longest_inputs = max(counts.longest_inputs, len(pair.inputs))
        counts.longest_targets = max(counts.longest_targets, len(pair.targets))
        whole = (trimming.cut(pair.inputs, 6), trimming.cut(pair.targets, 4))
        wanted.append(TokenPair(*whole, pair.task_ids[:4], pair.weights[:4]))
        given = {"inputs": pair.inputs, "targets": pair.targets, "targets_task_ids": pair.task_ids}
        group = features.to_group(given | {"targets_weights": pair.weights}, layout, features.Counts())
        assert len(group) == (len(pair.targets) > 0)
        for one in group:
            np.testing.assert_array_equal(one.inputs, wanted[-1].inputs)
            np.testing.assert_array_equal(one.targets, wanted[-1].targets)
    got = features.cut_all(Sequences.of(pairs), 1, layout)
    for field, value in vars(Sequences.of(wanted)).items():
        np.testing.assert_array_equal(getattr(got, field), value, err_msg=field)
    index = np.array([[(len(pair.inputs), len(pair.targets))] for pair in pairs])
    assert features.count(index, np.ones((len(pairs), 1), int), layout) == counts


def test_the_configuration_of_a_run_names_the_cache(names, built):
    data = DataConfig(names.paired, {"inputs": 64, "targets": 64}, batch_size=4, cache_dir=os.fspath(built))
    stream = data.stream(seed=1)
    assert isinstance(stream._sources[names.paired].examples, cache_read.CachedExamples)
    assert_same(next(stream), next(BatchStream(names.paired, Layout(4, 64, 64), seed=1)))


def test_a_process_with_empty_rows(names, built):
    layout = Layout(3, 64, 64, packed=False)  # one pair, and too few windows for another
    for where in (None, built):
        stream = BatchStream(names.paired, layout, shuffle=False, rows=slice(2, 3), cache_dir=where)
        batch = next(stream)
        assert batch.examples == 1
        assert not any(value.any() for value in batch.arrays.values())
