"""A restarted run of T5X's own loop equals an uninterrupted one, also when it reads from a cache."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import t5x.train
from t5x import partitioning, utils

from distill.data import cache
from distill.t5x import data
from distill.t5x.trainer import TwoTaskTrainer
from distill.tasks import jsonl, registration
from tests.t5x import engines

STEPS, ROWS = 4, 8
# With dropout: the random numbers of a step must be the same after a restart, too.
CONFIG = dataclasses.replace(engines.CONFIG, num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.1)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    file = tmp_path_factory.mktemp("restart") / "train.jsonl"
    rows = [{"input": f"{i} and 1?", "label": str(i + 1), "rationale": f"{i} plus one"} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return registration.register(jsonl.dataset({"train": file}, name="t5x_restart"), "bytes").paired


def train(task: str, model_dir, total_steps: int, cache_dir: str | None = None):
    """Trains up to ``total_steps``, resuming from the newest checkpoint of ``model_dir`` if there is one."""
    dataset = utils.DatasetConfig(
        mixture_or_task_name=task,
        task_feature_lengths={"inputs": 24, "targets": 24},
        split="train",
        batch_size=ROWS,
        shuffle=True,
        seed=3,
        pack=True,
    )
    save = utils.SaveCheckpointConfig(period=STEPS // 2, save_dataset=True)
    step, state = t5x.train.train(
        model=engines.two_task_model(CONFIG),
        train_dataset_cfg=dataset,
        train_eval_dataset_cfg=None,
        infer_eval_dataset_cfg=None,
        checkpoint_cfg=utils.CheckpointConfig(save=save, restore=utils.RestoreCheckpointConfig(path=[])),
        partitioner=partitioning.PjitPartitioner(num_partitions=None, model_parallel_submesh=(1, 1, 1, 1)),
        trainer_cls=lambda **kwargs: TwoTaskTrainer(
            **kwargs, learning_rate_fn=lambda step: jnp.float32(1e-2), num_microbatches=None
        ),
        model_dir=str(model_dir),
        total_steps=total_steps,
        eval_steps=1,
        eval_period=STEPS // 2,
        random_seed=0,
        summarize_config_fn=lambda *_: None,
        inference_evaluator_cls=seqio.Evaluator,
        get_dataset_fn=functools.partial(data.get_stream, cache_dir=cache_dir),
        verify_matching_vocabs_fn=None,
    )
    assert step == total_steps
    return jax.device_get(state.state_dict())


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def whole(task, model_dir, lenient_numerics):
    """The final state of an uninterrupted run that reads through SeqIO; computed once."""
    return _whole(task, model_dir)


@functools.cache
def _whole(task: str, model_dir):
    return train(task, model_dir, STEPS)


def test_stopped_and_restarted_equals_never_stopped(task, whole, tmp_path):
    half = train(task, tmp_path / "parts", STEPS // 2)
    parts = train(task, tmp_path / "parts", STEPS)
    assert jax.tree.structure(parts) == jax.tree.structure(whole)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    # The second half changed the state, and not by repeating the first half.
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), half["target"], whole["target"])
    assert all(jax.tree.leaves(moved))
    positions = [tmp_path / "parts" / f"checkpoint_{step}/dataset/train_ds-000-of-001" for step in (STEPS // 2, STEPS)]
    first, second = (json.loads(path.read_text())["draws"] for path in positions)
    assert 0 < first < second


def test_a_run_resumes_from_a_cache_as_from_the_data_set(task, whole, tmp_path):
    directory = cache.build([task], tmp_path / "cache", shards=2).directory
    train(task, tmp_path / "run", STEPS // 2)
    cached = train(task, tmp_path / "run", STEPS, cache_dir=str(directory))
    assert jax.tree.structure(cached) == jax.tree.structure(whole)
    jax.tree.map(np.testing.assert_array_equal, cached, whole)
    (directory / task / "1.0.0" / f"{task}-train.array_record-00001-of-00002").unlink()
    with pytest.raises(ValueError, match=r"the cache is damaged: .* is missing"):
        train(task, tmp_path / "again", STEPS, cache_dir=str(directory))
