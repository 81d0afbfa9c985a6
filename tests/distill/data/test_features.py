"""The SeqIO converter for T5X and other SeqIO users, packed and unpacked."""

import numpy as np
import pytest
import seqio

from distill.data.batches import BatchStream
from distill.data.features import TwoTaskFeatureConverter
from distill.data.packing import Layout

LENGTHS = {"inputs": 64, "targets": 64}


def dataset(name, pack, **kwargs):
    converter = TwoTaskFeatureConverter(pack=pack, windows=4)
    ds = seqio.get_dataset(name, LENGTHS, converter, "train", trim_output_features=False, **kwargs)
    return converter, list(ds.as_numpy_iterator())


@pytest.mark.parametrize("form", ["paired", "label", "rationale", "single", "mixed"])
@pytest.mark.parametrize("pack", [True, False])
def test_features_and_shapes(sums, form, pack):
    kwargs = {"num_epochs": 1, "shuffle": False}
    _, rows = dataset(getattr(sums, form), pack, **kwargs)
    names = {"encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens"}
    names |= {"decoder_loss_weights", "decoder_task_ids"}
    if pack:
        names |= {f"{side}_{what}" for side in ("encoder", "decoder") for what in ("segment_ids", "positions")}
    assert set(rows[0]) == names
    for row in rows:
        for name, value in row.items():
            assert value.shape == (64,)
            assert value.dtype == (np.float32 if name == "decoder_loss_weights" else np.int32)
    tasks = {int(task) for row in rows for task in row["decoder_task_ids"]} - {0}
    assert tasks == {"label": {1}, "rationale": {2}}.get(form, {1, 2})


def test_the_converter_packs_the_same_windows_as_the_stream(sums):
    _, rows = dataset(sums.paired, True, num_epochs=1, shuffle=False)
    batch = next(BatchStream(sums.paired, Layout(4, 64, 64), shuffle=False))
    for number in range(4):
        for name, value in batch.arrays.items():
            np.testing.assert_array_equal(rows[number][name], value[number], err_msg=name)


def test_seqio_may_trim_first(sums):
    converter = TwoTaskFeatureConverter(pack=False)
    short = {"inputs": 8, "targets": 6}
    rows = list(seqio.get_dataset(sums.rationale, short, converter, "train").as_numpy_iterator())
    assert {row["decoder_target_tokens"].shape for row in rows} == {(6,)}
    assert all((row["decoder_task_ids"] > 0).sum() == 6 for row in rows)


def test_truncation_is_counted(sums):
    converter = TwoTaskFeatureConverter(pack=False)
    short = {"inputs": 8, "targets": 6}
    rows = seqio.get_dataset(sums.rationale, short, converter, "train", trim_output_features=False)
    assert len(list(rows)) == converter.counts.sequences[2] == converter.counts.truncated_targets[2]
