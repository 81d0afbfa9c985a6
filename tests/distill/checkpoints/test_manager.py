"""Checkpoints that are saved and restored: which steps stay, what comes back, and which models are refused."""

import dataclasses
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from orbax.checkpoint.path import atomicity

from distill.checkpoints import digests, manager
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


@pytest.mark.parametrize(
    ("name", "expected"),
    [("period", "≥ 1"), ("keep", "≥ 1"), ("keep_every", "≥ 1 or None"), ("keep_best", "≥ 1 or None")],
)
def test_bad_schedules(name, expected):
    with pytest.raises(ValueError, match=rf"CheckpointConfig\.{name} must be {expected}; got 0"):
        CheckpointConfig(**{name: 0})


def test_a_state_is_restored_with_its_position_and_progress(tmp_path, caplog):
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
    assert not [text for text in caplog.messages if "does not exist" in text], "an intact step lacks no file"
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


def test_best_parameters_that_a_checkpoint_names_are_not_replaced_by_others(tmp_path):
    """Evaluation and export use the best parameters on validation, or none."""
    saver = Checkpoints(tmp_path, CONFIG)
    saver.save_best(2, state(2).params, {"accuracy": 1.0})
    saver.save(state(3), position(3), {"best_step": 2})
    saver.close()
    assert manager.restore_like(tmp_path, CONFIG, state(0).params)[0] == 2
    shutil.rmtree(tmp_path / "best" / "2")
    with pytest.raises(
        Damaged, match=r"best/2 is missing: .*checkpoints/3 names it as the best on validation; restore"
    ):
        manager.restore_like(tmp_path, CONFIG, state(0).params)


def test_digests_are_written_before_the_commit_file_of_an_object_store(tmp_path, monkeypatch):
    """Orbax's protocol for ``gs://``, on a local disk: no rename, but a commit file."""
    monkeypatch.setattr(digests, "temporary_path_class", lambda _: digests._CommittedWithDigests)
    order = []
    write, finalize = digests.write, atomicity.CommitFileTemporaryPath.finalize

    def committed(self):
        order.append(("commit", self.get().name))
        return finalize(self)

    monkeypatch.setattr(digests, "write", lambda folder: (order.append(("digests", folder.name)), write(folder)))
    monkeypatch.setattr(atomicity.CommitFileTemporaryPath, "finalize", committed)
    saver = Checkpoints(tmp_path, CONFIG)
    save(saver, 1)
    restored, _, _ = saver.restore(state(0))
    saver.close()
    assert int(restored.step) == 1
    assert order[-2:] == [("digests", "1"), ("commit", "1")]
    assert (tmp_path / "checkpoints" / "1" / digests.COMMIT_FILE).exists()
    assert digests.check(tmp_path / "checkpoints" / "1")


def test_a_run_opens_its_directory_with_its_settings_and_cleans_it(tmp_path):
    """As train and joint seeds do, which hold the lock."""
    for folder in ("checkpoints", "best"):
        (tmp_path / folder / "6.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    Checkpoints(tmp_path, CONFIG).close()
    assert len(list(tmp_path.rglob("*.orbax-checkpoint-tmp"))) == 2  # a reader holds no lock
    saver = Checkpoints.of_run(tmp_path, CONFIG, CheckpointConfig(keep=1, keep_every=2, verify=False))
    save(saver, 1, 2, 3)
    assert saver.restore_before(state(0), 3)[0].step == 2
    assert saver.restore_before(state(0), 2) is None
    saver.close()
    assert not list(tmp_path.rglob("*.orbax-checkpoint-tmp"))  # Orbax removes them in the background
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "3"]
    assert not list(tmp_path.rglob(digests.FILE))


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
