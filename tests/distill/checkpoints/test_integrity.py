"""Whether a step is whole and of the right model, checked while it is restored."""

import dataclasses
import json

import pytest
from etils import epath

from distill.checkpoints import digests, integrity
from distill.checkpoints.digests import Damaged
from distill.model.config import T5Config

CONFIG = T5Config(
    vocab_size=16, embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1
)


@pytest.fixture
def step(tmp_path):
    """A step with digests, whose array file is large enough to be hashed in the background."""
    folder = epath.Path(tmp_path / "best" / "4")
    for item, text in (("metrics/metrics", {}), ("model/metadata", dataclasses.asdict(CONFIG))):
        (folder / item).parent.mkdir(parents=True)
        (folder / item).write_text(json.dumps(text))
    (folder / "params" / "d").mkdir(parents=True)
    (folder / "params" / "_METADATA").write_text('{"tree_metadata": {}}')
    (folder / "params" / "d" / "data").write_bytes(bytes(2**20 + 1))
    digests.write(folder)
    return folder


def test_an_intact_step(step):
    with integrity.reading(step, CONFIG):
        pass
    integrity.check_step(step)


def test_a_damaged_array_is_reported_at_the_end_and_replaces_errors_of_the_reader(step):
    path = step / "params" / "d" / "data"
    path.write_bytes(bytes(2**20) + b"\1")
    entered = False
    with pytest.raises(Damaged, match=rf"{path} does not have the SHA-256"), integrity.reading(step, CONFIG):
        entered = True
    assert entered  # the restore runs while the file is hashed
    with pytest.raises(Damaged, match=rf"{path} does not have the SHA-256"), integrity.reading(step, CONFIG):
        raise KeyError("an error of the reader, caused by the damage")


def test_small_files_and_sizes_are_checked_before_anything_is_read(step):
    path = step / "params" / "_METADATA"
    before = path.read_text()
    path.write_text(before.replace(":", " "))
    with pytest.raises(Damaged, match="_METADATA does not have"), integrity.reading(step, CONFIG):
        pytest.fail("the reader got a damaged index")
    path.write_text(before)
    path = step / "params" / "d" / "data"
    path.write_bytes(bytes(2**20))
    with pytest.raises(Damaged, match="holds 1048576 bytes, expected 1048577"), integrity.reading(step, CONFIG):
        pytest.fail("the reader got a truncated file")
    path.unlink()
    with pytest.raises(Damaged, match=f"{path} is missing"), integrity.reading(step, CONFIG):
        pytest.fail("the reader found no file")


def test_an_error_of_the_reader_names_the_step(step):
    with pytest.raises(Damaged, match=f"{step} cannot be restored: KeyError: 'x'"), integrity.reading(step, CONFIG):
        raise KeyError("x")
    with pytest.raises(KeyboardInterrupt), integrity.reading(step, CONFIG):
        raise KeyboardInterrupt


def test_a_step_of_another_model_is_refused_before_it_is_read(step):
    other = dataclasses.replace(CONFIG, mlp_dim=16)
    with pytest.raises(ValueError, match="is of another model: mlp_dim: 8 there, 16 here"):  # noqa: SIM117
        with integrity.reading(step, other):
            pytest.fail("it was read")


def test_shares_of_processes_cover_all_files(step):
    (step / "params" / "d" / "data").write_bytes(bytes(2**20) + b"\1")
    found = []
    for number in range(4):
        try:
            digests.check(step, share=slice(number, None, 4))
        except Damaged as error:
            found.append(str(error))
    assert len(found) == 1 and "params/d/data" in found[0]
    assert integrity.everyones("one process") == ["one process"]


def test_settings_that_are_no_part_of_the_model():
    saved = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    alike = dataclasses.replace(CONFIG, dropout_rate=0.5, dtype="bfloat16", remat_policy="full", attention="pallas")
    assert integrity.check_same_model(saved, alike, "x") is None
    with pytest.raises(ValueError) as caught:
        integrity.check_same_model({**saved, "embed_dim": 4, "new": 1}, CONFIG, "checkpoint x")
    assert str(caught.value) == "checkpoint x is of another model: embed_dim: 4 there, 8 here; new: 1 there, None here"
