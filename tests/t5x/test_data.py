"""This project's tasks through T5X's DatasetConfig, packed and unpacked, and through the stream with a position."""

import json

import numpy as np
import pytest
import tensorflow as tf
from t5x import utils

from distill.data import cache
from distill.data.batches import BatchStream
from distill.data.cache.read import CachedExamples
from distill.data.curriculum import Curriculum
from distill.data.features import TwoTaskFeatureConverter
from distill.data.packing import Layout
from distill.t5x import data, steps
from distill.tasks import jsonl, registration
from distill.tools import vocabulary

LENGTHS = {"inputs": 32, "targets": 32}
ROWS = 4


def sums_in(folder):
    return jsonl.dataset({split: folder / f"{split}.jsonl" for split in ("train", "test")}, name="t5x_sums")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sums")
    for split, start, number in (("train", 0, 24), ("test", 24, 6)):
        rows = ({"input": f"{i} and 1?", "label": str(i + 1)} for i in range(start, start + number))
        rows = [row | ({} if i % 5 == 4 else {"rationale": f"{i} plus one"}) for i, row in enumerate(rows)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def sums(folder):
    return registration.register(sums_in(folder), "bytes")


@pytest.fixture(scope="module")
def cache_dir(sums, tmp_path_factory):
    """Its cache, written by `distill cache`."""
    output = tmp_path_factory.mktemp("cache") / "sums"
    return str(cache.build((sums.label, sums.rationale, sums.paired), output, shards=2).directory)


def config(name, **changes):
    settings = {
        "mixture_or_task_name": name,
        "task_feature_lengths": LENGTHS,
        "split": "train",
        "batch_size": ROWS,
        "shuffle": True,
        "seed": 3,
        "trim_output_features": False,
    }
    return utils.DatasetConfig(**(settings | changes))


@pytest.mark.parametrize("form", ["paired", "mixed", "label"])
@pytest.mark.parametrize("pack", [True, False])
def test_t5x_reads_batches(sums, form, pack):
    ds = data.get_dataset(config(data.registered_name(sums, form), pack=pack), 0, 1, TwoTaskFeatureConverter)
    batch = next(ds.as_numpy_iterator())
    assert batch["decoder_task_ids"].shape == (ROWS, 32)
    assert ("decoder_segment_ids" in batch) is pack
    assert set(np.unique(batch["decoder_task_ids"])) <= ({0, 1} if form == "label" else {0, 1, 2})
    # Every target ends in EOS, so every one has kept it.
    ends = (batch["decoder_target_tokens"] == 1).sum()
    assert ends == (batch["decoder_segment_ids"].max(axis=1).sum() if pack else ROWS)


def test_labels_that_the_vocabulary_does_not_know_are_refused(folder, tmp_path):
    model = tmp_path / "letters.model"
    model.write_bytes(vocabulary.train(["the cat sat on a mat and plus one [label] [rationale]"] * 5, 30))
    letters = registration.register(sums_in(folder), str(model))
    for form in ("paired", "mixed", "label"):
        with pytest.raises(
            ValueError, match=r"labels in a sample of 't5x_sums_(paired|label)', split 'train', have tokens"
        ):
            data.get_dataset(config(data.registered_name(letters, form)), 0, 1, TwoTaskFeatureConverter)
    registration.register(sums_in(folder), "bytes")  # the tasks of the other tests


def test_rows_without_rationales_are_refused(tmp_path, caplog, sums):
    rows = [{"input": f"{i}?", "label": str(i)} for i in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = registration.register(jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="t5x_alone"), "bytes")
    for form in ("paired", "single"):
        with pytest.raises(
            ValueError, match=rf"'t5x_alone_{form}' trains on labels and rationales, but none of \d rows? "
        ):
            data.get_dataset(config(data.registered_name(alone, form)), 0, 1, TwoTaskFeatureConverter)
    data.get_dataset(config(data.registered_name(alone, "label")), 0, 1, TwoTaskFeatureConverter)
    data.get_dataset(config(sums.paired), 0, 1, TwoTaskFeatureConverter)
    assert "t5x_sums_paired, train: 2 of 20 rows have no rationale" in caplog.text


def test_a_packed_pair_is_in_one_batch(sums):
    pack = config(sums.paired, pack=True, shuffle=False)
    ds = data.get_dataset(pack, 0, 1, TwoTaskFeatureConverter, num_epochs=1)
    wanted = BatchStream(sums.paired, Layout(ROWS, 32, 32), shuffle=False)
    for batch, other in zip(ds.as_numpy_iterator(), wanted):
        for name, value in batch.items():
            np.testing.assert_array_equal(value, other.arrays[name], err_msg=name)


def test_evaluation_knows_the_number_of_examples(sums):
    """SeqIO's evaluator counts a task's examples, and T5X asks the converted data set for their number."""
    task = registration.get(sums.label).get_dataset(LENGTHS, split="test", shuffle=False)
    known = task.apply(tf.data.experimental.assert_cardinality(6))
    ds = TwoTaskFeatureConverter(pack=False)(known, LENGTHS)
    assert len(ds) == len(list(ds)) == 6


def test_eos_survives_seqios_own_trimming(sums):
    lengths = {"inputs": 6, "targets": 3}
    task = registration.get(sums.rationale).get_dataset(lengths, split="train", shuffle=False)
    for row in TwoTaskFeatureConverter(pack=False)(task, lengths).as_numpy_iterator():
        assert row["encoder_input_tokens"][-1] == row["decoder_target_tokens"][-1] == 1


def test_the_stream_resumes_at_its_position(sums, tmp_path):
    whole = data.get_stream(config(sums.paired, pack=True), 0, 1, TwoTaskFeatureConverter)
    batches = [next(whole) for _ in range(6)]
    for name, spec in whole.element_spec.items():
        assert spec.shape == batches[0][name].shape
        assert spec.dtype == batches[0][name].dtype
    assert set(whole.element_spec) == set(batches[0])

    half = data.get_stream(config(sums.paired, pack=True), 0, 1, TwoTaskFeatureConverter)
    for _ in range(3):
        next(half)
    half.save(tmp_path / "position")
    other = data.get_stream(config(sums.paired, pack=True), 0, 1, TwoTaskFeatureConverter)
    next(other)
    other.restore(tmp_path / "position")
    for batch in batches[3:]:
        np.testing.assert_array_equal(next(other)["decoder_target_tokens"], batch["decoder_target_tokens"])
    other.reset()
    np.testing.assert_array_equal(next(other)["encoder_input_tokens"], batches[0]["encoder_input_tokens"])


@pytest.mark.parametrize("form", ["paired", "mixed", "label"])
@pytest.mark.parametrize("pack", [True, False])
def test_a_stream_from_the_cache_equals_one_without(sums, cache_dir, tmp_path, form, pack):
    def stream(**given):
        return data.get_stream(
            config(data.registered_name(sums, form), pack=pack), 0, 1, TwoTaskFeatureConverter, **given
        )

    plain, cached = stream(), stream(cache_dir=cache_dir)
    assert {type(source.examples) for source in cached._stream._sources.values()} == {CachedExamples}
    for number in range(12):  # more than an epoch
        if number == 5:
            plain.save(tmp_path / "position")  # one resumes from the other's position
            next(cached)
            cached.restore(tmp_path / "position")
        wanted, got = next(plain), next(cached)
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert cached._stream.epoch() > 1
    assert cached.element_spec == plain.element_spec


def test_shares_of_the_cache_make_the_whole(sums, cache_dir):
    whole = next(data.get_stream(config(sums.paired), 0, 1, TwoTaskFeatureConverter))
    shares = [
        next(data.get_stream(config(sums.paired), i, 2, TwoTaskFeatureConverter, cache_dir=cache_dir)) for i in range(2)
    ]
    for name, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), value)


def test_a_cache_of_other_data_is_rejected(sums, folder, cache_dir, tmp_path):
    half = registration.register(sums_in(folder), "bytes", subsample=0.5)
    with pytest.raises(ValueError, match=r"with other settings: selection.subsample is 1.0 there and 0.5 here\. Build"):
        data.get_stream(config(half.paired), 0, 1, TwoTaskFeatureConverter, cache_dir=cache_dir)
    registration.register(sums_in(folder), "bytes")
    with pytest.raises(ValueError, match=r"holds no finished cache"):
        data.get_stream(config(sums.paired), 0, 1, TwoTaskFeatureConverter, cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"CACHE_DIR = '/cache'. Add --gin_file=gin/t5x/runs/exact_restart.gin"):
        data.get_dataset(config(sums.paired), 0, 1, TwoTaskFeatureConverter, cache_dir="/cache")
    with pytest.raises(ValueError, match=r"SeqIO, which has no curriculum; got CURRICULUM = .*exact_restart\.gin"):
        data.get_dataset(config(sums.paired), 0, 1, TwoTaskFeatureConverter, curriculum=Curriculum())


def test_the_stream_orders_epochs_as_the_built_in_engine_does(sums):
    stream = data.get_stream(config(sums.paired), 0, 1, TwoTaskFeatureConverter, curriculum=Curriculum())
    own = BatchStream(sums.paired, Layout(ROWS, 32, 32, packed=False), seed=3, curriculum=Curriculum())
    for _ in range(4):
        np.testing.assert_array_equal(next(stream)["decoder_target_tokens"], next(own).arrays["decoder_target_tokens"])


def test_the_batch_that_t5x_prefetches_is_not_lost(sums, tmp_path):
    stream = data.get_stream(config(sums.paired), 0, 1, TwoTaskFeatureConverter)
    first = next(stream)
    stream.save(tmp_path / "position")
    stream.restore(tmp_path / "position")
    np.testing.assert_array_equal(next(stream)["encoder_input_tokens"], first["encoder_input_tokens"])


def test_shares_of_the_stream_make_the_whole(sums):
    whole = next(data.get_stream(config(sums.paired), 0, 1, TwoTaskFeatureConverter))
    shares = [next(data.get_stream(config(sums.paired), i, 2, TwoTaskFeatureConverter)) for i in range(2)]
    for name, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), value)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [({"seed": None}, {}, "seed"), ({}, {"num_epochs": 1}, "endless"), ({"use_cached": True}, {}, "CACHE_DIR")],
)
def test_unsupported_settings_raise(sums, changes, arguments, message):
    with pytest.raises(ValueError, match=message):
        data.get_stream(config(sums.paired, **changes), 0, 1, TwoTaskFeatureConverter, **arguments)
    with pytest.raises(ValueError, match="divisible"):
        data.get_stream(config(sums.paired), 0, 3, TwoTaskFeatureConverter)


def test_names_and_lengths(sums):
    assert data.registered_name(sums, "paired") == "t5x_sums_paired"
    with pytest.raises(ValueError, match="T5X decodes without a prompt; use 'paired'"):
        data.registered_name(sums, "shared_label")
    with pytest.raises(ValueError, match="paired"):
        data.registered_name(sums, "pared")
    assert data.decode_lengths({"inputs": 512, "targets": 256}, 24) == {"inputs": 512, "targets": 24}


def test_steps_are_relative_to_the_initial_checkpoint():
    path = "gs://t5-data/pretrained_models/t5x/t5_1_1_base/checkpoint_1000000"
    assert steps.first_step(path) == steps.first_step(path + "/") == 1_000_000
    assert steps.first_step(None) == 0
    assert steps.total_steps(10, path) == 1_000_010
    with pytest.raises(ValueError, match="step"):
        steps.first_step("runs/best")
    with pytest.raises(ValueError, match="≥ 1"):
        steps.total_steps(0, None)
