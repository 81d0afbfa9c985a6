"""Checkpoints that are saved and restored: which steps stay, what comes back, and which models are refused."""

import dataclasses
import os

import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from distill.checkpoints import manager
from distill.checkpoints.digests import Damaged
from distill.checkpoints.manager import CheckpointConfig, Checkpoints
from distill.model.config import T5Config

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CONFIG = T5Config(
    vocab_size=16, embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1
)


class State(struct.PyTreeNode):
    """A small state."""

    step: object
    params: object


def state(step):
    return State(jnp.int32(step), {"w": jnp.full((2, 3), float(step), jnp.float32)})


def position(step):
    return {"seed": 1, "draws": step, "consumed": {"task": step}}


def save(saver, *steps):
    for step in steps:
        saver.save(state(step), position(step), {"best": 0.5, "best_step": 0})
    saver.wait()


@pytest.mark.parametrize("name", ["period", "keep", "keep_every", "keep_best"])
def test_bad_schedules(name):
    with pytest.raises(ValueError, match=rf"CheckpointConfig\.{name} must be ≥ 1; got 0"):
        CheckpointConfig(**{name: 0})


def test_a_state_is_restored_with_its_position_and_progress(tmp_path):
    saver = Checkpoints(tmp_path, CONFIG, keep=2, keep_every=3)
    with pytest.raises(FileNotFoundError, match="no checkpoint under"):
        saver.restore(state(0))
    save(saver, 2, 3, 4, 5)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["3", "4", "5"]  # the last two, and the multiple of 3
    restored, data, progress = saver.restore(state(0))
    assert int(restored.step) == 5
    np.testing.assert_array_equal(restored.params["w"], np.full((2, 3), 5.0))
    assert (data, progress) == (position(5), {"best": 0.5, "best_step": 0})
    assert saver.latest_step() == 5
    assert saver.restore_params(state(0).params)[0] == 5
    saver.close()


def test_a_damaged_step_is_moved_away_and_the_older_one_restored(tmp_path, caplog):
    saver = Checkpoints(tmp_path, CONFIG)
    save(saver, 1, 2)
    (tmp_path / "checkpoints" / "2" / "position" / "metadata").write_text("{}")
    restored, data, _ = saver.restore(state(0))
    assert (int(restored.step), data["draws"]) == (1, 1)
    assert (tmp_path / "damaged" / "checkpoints" / "2").is_dir()
    assert "position" in caplog.text
    (tmp_path / "checkpoints" / "1" / "position" / "metadata").write_text("{}")
    with pytest.raises(Damaged, match="no intact checkpoint is left"):
        saver.restore(state(0))
    saver.close()


def test_the_best_parameters(tmp_path):
    saver = Checkpoints(tmp_path, CONFIG)
    with pytest.raises(FileNotFoundError, match="no best parameters"):
        saver.restore_best(state(0).params)
    for step in (1, 2):
        saver.save_best(step, state(step).params, {"accuracy": float(step)})
    saver.finish(2)
    assert os.listdir(tmp_path / "best") == ["2"]
    step, params = saver.restore_best(state(0).params)
    assert (step, saver.best_step()) == (2, 2)
    np.testing.assert_array_equal(params["w"], np.full((2, 3), 2.0))
    assert saver.agree(2) == ([], True)
    assert saver.agree(None) == ([2], True)
    assert saver.agree(1) == ([], False)
    saver.close()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    saver = Checkpoints(tmp_path, CONFIG)
    save(saver, 1)
    saver.close()
    other = Checkpoints(tmp_path, dataclasses.replace(CONFIG, mlp_dim=16))
    with pytest.raises(ValueError, match="is of another model: mlp_dim: 8 there, 16 here"):
        other.restore(state(0))
    other.close()


def test_a_folder_without_a_student(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoints"):
        manager.restore_like(tmp_path, CONFIG, {})
