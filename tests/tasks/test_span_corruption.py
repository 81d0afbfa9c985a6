"""T5's span corruption: its published lengths, and texts that are restored from inputs and targets."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from distill.tasks import span_corruption
from distill.tasks.span_corruption import SpanCorruption
from distill.tools import vocabulary

BYTES = seqio.ByteVocabulary(extra_ids=125)


def examples(tokens, spans, seed=0, vocab=BYTES):
    rows = tf.data.Dataset.from_tensor_slices({"input": [bytes(token - 3 for token in tokens)]})
    with seqio.utils.map_seed_manager(seed):
        return list(span_corruption.corrupt_spans(vocab, spans)(rows).as_numpy_iterator())


# t5.data.preprocessors.random_spans_helper(512, noise_density=0.15, mean_noise_span_length=3) gives (568, 114), which the
# T5 paper's pretraining uses; Hugging Face's run_t5_mlm_flax.compute_input_and_target_lengths gives the same.
@pytest.mark.parametrize(
    ("inputs", "density", "mean", "window", "targets"),
    [(512, 0.15, 3.0, 568, 114), (1024, 0.15, 20.0, 1193, 189), (256, 0.15, 3.0, 284, 58), (128, 0.15, 3.0, 141, 29)],
)
def test_window_and_target_lengths_are_t5s(inputs, density, mean, window, targets):
    spans = SpanCorruption(inputs, density, mean)
    noise = round(window * density)
    number = round(noise / mean)
    assert (spans.window, spans.targets_length) == (window, targets)
    assert window - noise + number + 1 <= inputs and targets == noise + number + 1
    assert spans.lengths(window + 1)[0] > inputs


def test_density_span_lengths_sentinels_and_the_text_restored():
    spans = SpanCorruption(128, 0.15, 3.0)
    text = np.random.default_rng(0).integers(3, 259, 40 * spans.window + 17)
    found = examples(text.tolist(), spans)
    assert len(found) == 40  # the rest of 17 tokens is dropped
    sentinel_ids = span_corruption.sentinels(BYTES)
    assert sentinel_ids[:2] == [383, 382] and len(sentinel_ids) == 125
    noise, number = spans.counts(spans.window)
    masks, span_lengths = [], []
    for row, example in enumerate(found):
        inputs, targets = example["inputs"].tolist(), example["targets"].tolist()
        assert len(inputs) == 128 and len(targets) == spans.targets_length and inputs[-1] == targets[-1] == 1
        for side in (inputs, targets):  # each sentinel once, in descending order of ids
            assert [token for token in side if token >= 259] == sentinel_ids[:number]
        window = text[row * spans.window : (row + 1) * spans.window].tolist()
        assert span_corruption.text_of(inputs[:-1], targets[:-1], sentinel_ids) == window
        assert sum(token < 259 for token in targets) - 1 == noise
        ends = [at for at, token in enumerate(targets) if token >= 259] + [len(targets) - 1]
        span_lengths += (np.diff(ends) - 1).tolist()
        masks.append(inputs)
        assert set(example["targets_task_ids"]) == {1} and set(example["targets_weights"]) == {1.0}
    assert noise / spans.window == pytest.approx(0.15, abs=0.004)
    assert np.mean(span_lengths) == pytest.approx(3.0, abs=0.01) and min(span_lengths) >= 1
    assert len(set(span_lengths)) > 4  # lengths vary; all partitions are equally likely
    assert len({tuple(np.flatnonzero(np.array(mask) >= 259)) for mask in masks}) == 40


def test_the_mask_is_uniform_over_partitions():
    spans = SpanCorruption(8, 0.4, 2.0)  # windows of 8 tokens: 3 masked tokens in 2 spans, 5 kept tokens in 2 spans
    assert spans.counts(8) == (3, 2)
    draw = tf.function(lambda seed: span_corruption.noise_mask(8, spans, seed))
    seen: dict[tuple[bool, ...], int] = {}
    for seed in range(800):
        mask = tuple(draw(tf.constant([seed, 1])).numpy().tolist())
        assert sum(mask) == 3 and not mask[0] and mask[-1]
        seen[mask] = seen.get(mask, 0) + 1
    assert len(seen) == 4 * 2  # (5-1 choose 1) partitions of the kept tokens × (3-1 choose 1) of the masked ones
    assert min(seen.values()) > 60  # 100 expected, standard deviation 9.4


def test_the_noise_depends_on_the_seed_alone():
    spans = SpanCorruption(64)
    text = np.random.default_rng(1).integers(3, 259, 500).tolist()
    inputs = [np.stack([one["inputs"] for one in examples(text, spans, seed)]) for seed in (5, 5, 6)]
    assert (inputs[0] == inputs[1]).all() and (inputs[0] != inputs[2]).any()


def test_sentinels_of_a_sentencepiece_file_and_of_appended_ids(tmp_path):
    lines = ["The cat sat on the mat.", "A dog sat on 12 logs.", "There are 345 birds in the tree."] * 5
    (tmp_path / "with.model").write_bytes(vocabulary.train(lines, 50, extra_ids=10))
    (tmp_path / "without.model").write_bytes(vocabulary.train(lines, 50))
    contained = seqio.SentencePieceVocabulary(str(tmp_path / "with.model"))
    appended = seqio.SentencePieceVocabulary(str(tmp_path / "without.model"), extra_ids=10)
    without = seqio.SentencePieceVocabulary(str(tmp_path / "without.model"))
    last = contained.vocab_size - 1
    assert span_corruption.sentinels(contained) == list(range(last, last - 10, -1))
    assert span_corruption.sentinels(appended) == span_corruption.sentinels(contained)
    assert contained.decode([last]).strip() == "<extra_id_0>"
    assert span_corruption.sentinels(without) == []
    with pytest.raises(
        ValueError, match=rf"needs 28 extra ids .* vocabulary of {without.vocab_size} ids has 0: .*--extra"
    ):
        span_corruption.check_sentinels(without, SpanCorruption())
    with pytest.raises(ValueError, match="has 10"):
        span_corruption.check_sentinels(contained, SpanCorruption())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise_density": 0.0}, r"noise_density must be in \(0, 1\); got 0.0"),
        ({"mean_span_length": 0.5}, "mean_span_length must be ≥ 1; got 0.5"),
        ({"inputs_length": 3}, "inputs_length must be ≥ 4; got 3"),
    ],
)
def test_values_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        SpanCorruption(**given)
