"""Runs that are made to diverge: they end with the batch written down, or skip the update and count it."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from distill.data.batches import Batch
from distill.experiments.sweep import files
from distill.training import event_files, nonfinite, optimizers, train
from distill.training.config import LoopConfig
from distill.training.step import make_train_step

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def bursting(at, learning_rate=1e-2):
    """AdamW whose gradient transformation yields nan at some steps (counted from 0), and keeps its state elsewhere."""
    inner = optimizers.adamw(learning_rate)

    def update(updates, state, params=None):
        count, rest = state
        updates, rest = inner.transform.update(updates, rest, params)
        bad = jnp.isin(count, jnp.asarray(at))
        return jax.tree.map(lambda x: jnp.where(bad, jnp.nan, x), updates), (count + 1, rest)

    def init(params):
        return jnp.int32(0), inner.transform.init(params)

    return optimizers.Optimizer(optax.GradientTransformation(init, update), inner.learning_rate)


@pytest.fixture
def skipping(arguments):
    arguments["loop"] = dataclasses.replace(arguments["loop"], on_nonfinite="skip", max_skipped=3, log_period=1)
    arguments["validation"] = None
    return arguments


def test_a_diverged_run_stops_within_two_steps_and_writes_its_batch(tmp_path, arguments):
    arguments["optimizer"] = optimizers.adamw(1e30)
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=1000, log_period=1000)
    arguments["validation"] = None
    directory = tmp_path / "run"
    message = rf"the loss is (nan|inf) at step 2; .*no checkpoint.*the batch is in {directory}/replay/step_2\.json"
    with pytest.raises(FloatingPointError, match=message):
        train.train(str(directory), **arguments)
    assert list((directory / "checkpoints").iterdir()) == []
    assert nonfinite.steps(epath.Path(directory)) == [2]
    assert files.reached_step(directory) == 2, "not the later ones that were begun before its loss was read"
    arrays, described = nonfinite.read(epath.Path(directory), 2)
    stream = arguments["data"].stream(3)
    next(stream)
    batch = next(stream)
    assert arrays.keys() == batch.arrays.keys()
    for name, value in batch.arrays.items():
        np.testing.assert_array_equal(arrays[name], value)
    assert described["position_after"] == batch.position
    assert (described["seed"], described["dropout_rng"]) == (3, {"key": 4, "fold_in": 1})
    assert described["metrics"]["loss"] in ("nan", "inf")
    assert described["metrics"]["effective_lambda"] == pytest.approx(0.5, rel=1e-5)


def test_an_update_that_overflows_is_found_before_the_state_is_saved(tmp_path, arguments):
    """Loss and gradient are finite at step 4; the update is not."""
    arguments["optimizer"] = bursting([3])
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=4)
    arguments["validation"] = None
    with pytest.raises(FloatingPointError, match=r"params/.* holds nan or infinity at step 4 .*replay/step_4\.json"):
        train.train(str(tmp_path / "run"), **arguments)
    assert nonfinite.steps(epath.Path(tmp_path / "run")) == [4]


def test_updates_are_skipped_counted_logged_and_the_position_advances(tmp_path, skipping, caplog, capsys):
    skipping["optimizer"] = bursting([2, 5])
    directory = tmp_path / "run"
    result = train.train(str(directory), **skipping)
    assert (result.step, result.skipped) == (8, 2)
    assert json.loads((directory / "result.json").read_text())["skipped"] == 2
    assert nonfinite.steps(epath.Path(directory)) == [3, 6]
    told = capsys.readouterr().err + caplog.text
    assert "the update of step 3 was skipped (1 of at most 3): loss or gradient is nan or infinity" in told
    assert "step 3/8  λ 0.5  skipped 1  epoch" in told
    logged = event_files.read(directory / "logs")
    assert [step for step, value in logged["train/skipped_updates"] if value] == [3, 6]
    assert [step for step, _ in logged["train/loss"]] == [1, 2, 4, 5, 7, 8]
    position = json.loads((directory / "checkpoints/8/position/metadata").read_text())
    stream = skipping["data"].stream(3)
    for _ in range(8):
        batch = next(stream)
    assert position == batch.position


def test_a_restart_counts_on_and_ends_as_the_run_that_was_not_stopped(tmp_path, skipping):
    skipping["optimizer"] = bursting([2, 5])
    whole = train.train(str(tmp_path / "whole"), **skipping)
    half = dict(skipping, loop=dataclasses.replace(skipping["loop"], train_steps=4))
    assert train.train(str(tmp_path / "parts"), **half).skipped == 1
    (tmp_path / "parts" / "result.json").unlink()
    parts = train.train(str(tmp_path / "parts"), **skipping)
    same = {"seconds": 0.0, "performance": {}}  # times differ
    assert dataclasses.replace(parts, **same) == dataclasses.replace(whole, **same)
    for name in ("state/d", "state/ocdbt.process_0"):
        assert (tmp_path / "parts/checkpoints/8" / name).exists()
    progress = [
        json.loads((tmp_path / run / "checkpoints/8/progress/metadata").read_text()) for run in ("whole", "parts")
    ]
    assert [one["skipped"] for one in progress] == [2, 2]


def test_too_many_skips_end_the_run(tmp_path, skipping):
    skipping["optimizer"] = bursting([1, 3, 4, 6])
    message = r"4 updates were skipped, more than 3, the last one at step 7; .*the newest checkpoint is of step 4"
    with pytest.raises(FloatingPointError, match=message):
        train.train(str(tmp_path / "run"), **skipping)
    assert nonfinite.steps(epath.Path(tmp_path / "run")) == [2, 4, 5, 7]


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_skipped_update_changes_counts_only(arguments, microbatches):
    from distill.training.state import random_state

    model, loss = arguments["model"], arguments["loss"]
    batch = {name: jnp.asarray(array) for name, array in next(arguments["data"].stream(3)).arrays.items()}
    optimizer = bursting([1])
    state = jax.jit(lambda key: random_state(model, optimizer, key, ema=True))(jax.random.key(0))
    options = {"num_microbatches": microbatches, "ema_decay": 0.5, "skip_nonfinite": True}
    step = jax.jit(make_train_step(model, loss, optimizer, **options))
    for number, skips in enumerate((False, True), start=1):
        after, metrics = step(state, batch, jax.random.key(1))
        assert float(metrics["skipped_updates"][0]) == float(skips)
        assert int(after.step) == number
        for new, old in zip(*map(jax.tree.leaves, map(jax.device_get, (after, state))), strict=True):
            if np.issubdtype(new.dtype, np.integer):
                assert int(new) == number
            elif skips:
                np.testing.assert_array_equal(new, old)
        assert all(np.isfinite(value).all() for pair in metrics.values() for value in jax.device_get(pair))
        pairs = zip(*map(jax.tree.leaves, map(jax.device_get, (after.params, state.params))))
        assert any((new != old).any() for new, old in pairs) is not skips
        state = after


def test_seeds_trained_together_skip_each_on_their_own(arguments):
    """Under vmap, as joint seeds train: the first of two students has nan parameters."""
    from distill.training.state import random_state

    optimizer = optimizers.adamw(1e-2)
    batch = {name: jnp.asarray(array) for name, array in next(arguments["data"].stream(3)).arrays.items()}
    one = jax.jit(lambda key: random_state(arguments["model"], optimizer, key))(jax.random.key(0))
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)
    norm = two.params["encoder"]["encoder_norm"]["scale"]
    two.params["encoder"]["encoder_norm"]["scale"] = norm.at[0].set(jnp.nan)
    step = jax.vmap(make_train_step(arguments["model"], arguments["loss"], optimizer, skip_nonfinite=True))
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), batch)
    after, metrics = jax.jit(step)(two, batches, jax.random.split(jax.random.key(1)))
    np.testing.assert_array_equal(metrics["skipped_updates"][0], [1.0, 0.0])
    for new, old in zip(jax.tree.leaves(after.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_array_equal(new[0], old[0])
    assert any(bool((new[1] != old[1]).any()) for new, old in zip(*map(jax.tree.leaves, (after.params, two.params))))


def test_rows_of_several_processes_become_one_batch(tmp_path, monkeypatch):
    whole = {"tokens": np.arange(12, dtype=np.int32).reshape(6, 2)}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index, rows in enumerate((np.array([0, 1, 4]), np.array([2, 3, 5]))):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        batch = Batch({"tokens": whole["tokens"][rows]}, {"draws": 1}, 1, 0.0)
        found = nonfinite.Found(0, 5, "the loss is nan", False, batch, {"loss": float("nan")})
        nonfinite.write(epath.Path(tmp_path), found, 0, rows, LoopConfig(10))
    arrays, described = nonfinite.read(epath.Path(tmp_path), 5)
    np.testing.assert_array_equal(arrays["tokens"], whole["tokens"])
    assert described["metrics"] == {"loss": "nan"}
    (tmp_path / "replay" / "step_5.rows_0.npz").unlink()
    with pytest.raises(ValueError, match=r"step_5\.json .* hold no batch: row 0 of the batch is missing"):
        nonfinite.read(epath.Path(tmp_path), 5)
    with pytest.raises(FileNotFoundError, match=r"no batch of step 6 in replay/ \(steps there: 5\)"):
        nonfinite.read(epath.Path(tmp_path), 6)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (
            "step_5.npz",
            lambda data: data[: len(data) // 2],
            r"step_5\.npz holds no rows of a batch: File is not a zip file",
        ),
        ("step_5.npz", lambda data: data[:60] + bytes(20) + data[80:], r"step_5\.npz holds no rows of a batch: "),
        ("step_5.npz", lambda data: b"", r"step_5\.npz holds no rows of a batch: File is not a zip file"),
        ("step_5.npz", lambda data: npz(tokens=np.zeros((6, 2), np.int32)), r"step_5\.npz has no array 'rows'"),
        (
            "step_5.npz",
            lambda data: npz(rows=np.arange(3), tokens=np.zeros((6, 2))),
            "other numbers of rows than 'rows' in it",
        ),
        ("step_5.json", lambda data: data[:-9], r"step_5\.json .* hold no batch: "),
        ("step_5.json", lambda data: b"[" * 100_000, r"step_5\.json .* hold no batch: "),
        (
            "step_5.json",
            lambda data: data.replace(b"fold_in", b"folded"),
            "dropout_rng must hold the integers key and fold_in",
        ),
        ("step_5.json", lambda data: b"[1]", r"step_5\.json .* hold no batch: it is no JSON object"),
    ],
)
def test_a_damaged_batch_is_one_line_that_names_the_file(tmp_path, name, change, expected):
    batch = Batch({"tokens": np.arange(12, dtype=np.int32).reshape(6, 2)}, {"draws": 1}, 1, 0.0)
    found = nonfinite.Found(0, 5, "the loss is nan", False, batch, {"loss": float("nan")})
    nonfinite.write(epath.Path(tmp_path), found, 0, np.arange(6), LoopConfig(10))
    file = tmp_path / "replay" / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match=expected) as caught:
        nonfinite.read(epath.Path(tmp_path), 5)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "replay" / "step_5") in str(caught.value)


def npz(**arrays):
    held = io.BytesIO()
    np.savez(held, **arrays)
    return held.getvalue()


def test_the_watch_reads_only_what_the_devices_have_finished():
    read = []

    def metrics(pending):
        read.extend(one["loss"][0] for one in pending)
        return [[{**one, "grad_norm": (1.0, 1.0)} for one in pending]]

    watch = nonfinite.Watch(metrics, 2)
    for step in range(1, 5):
        watch.add(step, {"loss": (float("inf") if step == 4 else step, 1.0)}, [None])
        assert watch.found(all_updates=False) == []
    assert read == [1, 2]
    (found,) = watch.found(all_updates=True)
    assert (found.step, found.reason, read) == (4, "the loss is inf", [1, 2, 3, float("inf")])
    assert watch.found(all_updates=True) == []


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"LoopConfig\.on_nonfinite must be one of \('stop', 'skip'\); got 'skp'"):
        LoopConfig(10, on_nonfinite="skp")
    with pytest.raises(ValueError, match=r"LoopConfig\.max_skipped must be ≥ 1; got 0"):
        LoopConfig(10, max_skipped=0)
