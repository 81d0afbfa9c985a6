"""A training run: the files it writes, what it refuses, and that a restarted run equals one that was not stopped."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from distill.checkpoints.manager import Checkpoints
from distill.data import cache
from distill.data.batches import BatchStream
from distill.inference.evaluate import Evaluator
from distill.sharding import partitioning
from distill.tasks import registration
from distill.training import record, reporting, train
from distill.training.state import abstract_state, init_state, make_state
from distill.training.train import LoopConfig
from tests.distill.conftest import arguments_for, register_sums
from tests_support import files_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory and the result of a run with the settings of ``arguments``. Tests change copies only."""
    folder = tmp_path_factory.mktemp("finished")
    return folder / "run", train.train(str(folder / "run"), **arguments_for(register_sums(folder)))


def unfinished_copy(finished, target):
    """A copy of the run without its result, as ``distill train`` with more TRAIN_STEPS, which renames it, leaves it."""
    shutil.copytree(finished[0], target)
    (target / reporting.RESULT).unlink()
    return target


def final_state(directory, arguments):
    """The newest checkpoint of a run, on one device."""
    mesh = partitioning.MeshConfig(1, 1, 1).build()
    ema = arguments["loop"].ema_decay is not None
    like = abstract_state(arguments["model"], arguments["optimizer"], mesh, partitioning.DEFAULT_RULES, ema=ema)
    saver = Checkpoints(directory, arguments["model"])
    state, position, progress = saver.restore(like)
    saver.close()
    return state, position, progress


def assert_equal_states(got, wanted, exact=True):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        if exact:
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        else:
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-4, atol=2e-5)


def test_no_process_begins_the_first_step_while_another_compiles_it(tmp_path, arguments, monkeypatch):
    """On CPUs, Gloo waits 30 s for the other process of the first collective; the barrier waits for longer."""
    calls, update = [], train._Student.update

    def updated(self, batches):
        calls.append("update")
        return update(self, batches)

    monkeypatch.setattr(train._Student, "update", updated)

    def wait(*, key, timeout_ms):
        if key.startswith("distill"):  # Orbax waits by the same function
            calls.append((key, timeout_ms))

    monkeypatch.setattr(train.multihost, "get_barrier_sync_fn", lambda **_: wait)
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=2)
    train.train(str(tmp_path / "run"), **arguments | {"validation": None})
    assert calls == [("distill_compiled", 1_800_000), "update", "update"]


def test_a_run_leaves_results_behind(finished):
    directory, result = finished
    assert result.step == 8
    assert result.stopped is None
    assert {"accuracy", "accuracy_low", "accuracy_high"} <= set(result.test)
    written = json.loads((directory / reporting.RESULT).read_text())
    assert written["test"] == result.test
    predictions = [json.loads(line) for line in (directory / "predictions/test.jsonl").read_text().splitlines()]
    assert len(predictions) == 10
    assert predictions[0]["target"] == "3"
    splits = [json.loads(line)["split"] for line in (directory / reporting.EVALUATIONS).read_text().splitlines()]
    assert splits == ["validation", "validation", "test"]
    assert list((directory / "logs").glob("events*"))


def test_a_run_does_not_continue_on_other_validation_rows(tmp_path, arguments, finished):
    more = {**arguments, "loop": dataclasses.replace(arguments["loop"], train_steps=9)}
    before = files_of(unfinished_copy(finished, tmp_path / "run"))
    fewer = {**more, "validation": dataclasses.replace(arguments["validation"], max_examples=5)}
    with pytest.raises(ValueError, match=r"the rows of split 'validation' have changed since step \d was selected on"):
        train.train(str(tmp_path / "run"), **fewer)
    assert files_of(tmp_path / "run") == before
    assert train.train(str(tmp_path / "run"), **more).step == 9


def test_a_run_goes_on_from_a_cache_without_the_files_of_its_training_rows(tmp_path, arguments, finished):
    task = arguments["data"].mixture_or_task_name
    cache.build([task], tmp_path / "cache")
    unfinished_copy(finished, tmp_path / "run")
    (tmp_path / "train.jsonl").unlink()
    registration.call_of(task)()  # forgets the rows that it has read
    arguments["data"] = dataclasses.replace(arguments["data"], cache_dir=str(tmp_path / "cache"))
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=9)
    before = record.read(finished[0]).data
    assert train.train(str(tmp_path / "run"), **arguments).step == 9
    assert record.read(tmp_path / "run").data == before


def test_a_finished_run_is_not_repeated(arguments, finished, monkeypatch):
    directory, first = finished
    monkeypatch.setattr(train, "make_train_step", lambda *a, **k: pytest.fail("trained again"))
    assert train.train(str(directory), **arguments) == first


def test_stopped_and_restarted_equals_never_stopped(tmp_path, arguments, finished, monkeypatch):
    """On the same mesh, bit by bit, and on another one."""
    whole = final_state(unfinished_copy(finished, tmp_path / "whole"), arguments)
    stopping = train.StopRequest

    class StopAtFive(stopping):
        def requested(self, step):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().requested(step)

    monkeypatch.setattr(train, "StopRequest", StopAtFive)
    stopped = train.train(str(tmp_path / "parts"), **arguments)
    assert (stopped.step, stopped.stopped) == (5, "SIGTERM")
    assert not (tmp_path / "parts" / reporting.RESULT).exists()
    monkeypatch.setattr(train, "StopRequest", stopping)
    for mesh in ((1, 1, 1), (2, 1, 2)):
        directory = tmp_path / f"parts on {mesh}"
        shutil.copytree(tmp_path / "parts", directory)
        arguments["mesh"] = partitioning.MeshConfig(*mesh)
        assert train.train(str(directory), **arguments).step == 8
        parts = final_state(directory, arguments)
        assert_equal_states(parts[0], whole[0], exact=mesh == (1, 1, 1))
        assert parts[1] == whole[1]
        assert parts[2]["examples"] == whole[2]["examples"]


def test_training_does_not_recompile(tmp_path, arguments, monkeypatch):
    compiled = []
    real = train.make_train_step

    def counting(*args, **kwargs):
        step = real(*args, **kwargs)

        def traced(*inputs):
            compiled.append(1)
            return step(*inputs)

        return traced

    monkeypatch.setattr(train, "make_train_step", counting)
    train.train(str(tmp_path / "run"), **arguments)
    assert len(compiled) == 1


def test_the_compiler_is_given_the_runs_options(tmp_path, arguments, monkeypatch):
    given, real = [], jax.jit

    def noting(fun=None, **kwargs):
        given.append(kwargs.get("compiler_options"))
        return real(fun, **kwargs)

    options = {"xla_cpu_enable_fast_math": False}
    arguments["loop"] = dataclasses.replace(arguments["loop"], compiler_options=options)
    monkeypatch.setattr(jax, "jit", noting)
    assert train.train(str(tmp_path / "run"), **arguments | {"validation": None}).step == 8
    assert given.count(options) == 2  # the probe and the step


def test_options_that_the_compiler_does_not_have_end_the_run_at_once(tmp_path, arguments):
    options = {"xla_tpu_enable_emitter_rolling": True}
    arguments["loop"] = dataclasses.replace(arguments["loop"], compiler_options=options)
    with pytest.raises(ValueError, match=r"the cpu compiler rejects COMPILER_OPTIONS .* No such compile option"):
        train.train(str(tmp_path / "run"), **arguments)
    assert not (tmp_path / "run").exists()


def test_another_model_is_refused_with_every_difference(tmp_path, arguments, finished):
    unfinished_copy(finished, tmp_path / "run")
    arguments["model"] = dataclasses.replace(arguments["model"], embed_dim=32, mlp_dim=64)
    with pytest.raises(ValueError, match=r"another model: embed_dim: 16 there, 32 here; mlp_dim: 32 there, 64 here"):
        train.train(str(tmp_path / "run"), **arguments)


def test_a_run_starts_from_another_runs_best_parameters(tmp_path, arguments, finished):
    unfinished_copy(finished, tmp_path / "first")
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=1)
    mesh = partitioning.MeshConfig(1, 1, 1).build()
    state = make_state(
        arguments["model"],
        arguments["optimizer"],
        mesh,
        partitioning.DEFAULT_RULES,
        initial_checkpoint_path=str(tmp_path / "first"),
    )
    saver = Checkpoints(tmp_path / "first", arguments["model"])
    _, best = saver.restore_best(state.params)
    saver.close()
    assert_equal_states(state.params, best)
    assert int(state.step) == 0
    # A run that continues reads its own checkpoint alone: neither time nor memory for the initial one.
    second = str(tmp_path / "second")
    train.train(second, initial_checkpoint_path=str(tmp_path / "first"), **arguments)
    for path in (tmp_path / "first" / "best").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        train.train(str(tmp_path / "third"), initial_checkpoint_path=str(tmp_path / "first"), **arguments)
    (tmp_path / "second" / reporting.RESULT).unlink()
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=2)
    assert train.train(second, initial_checkpoint_path=str(tmp_path / "first"), **arguments).step == 2


def test_more_ids_than_rows_is_refused(tmp_path, arguments):
    arguments["model"] = dataclasses.replace(arguments["model"], vocab_size=128)
    with pytest.raises(ValueError, match="has 384 ids, but the model's vocab_size is 128"):
        train.train(str(tmp_path / "run"), **arguments)


def test_a_metric_that_is_not_there(tmp_path, arguments):
    arguments["validation"] = dataclasses.replace(arguments["validation"], metric="bleu")
    with pytest.raises(ValueError, match=r"no metric 'bleu'; it has \['accuracy'"):
        train.train(str(tmp_path / "run"), **arguments)


def test_a_batch_that_does_not_divide(tmp_path, arguments):
    arguments["mesh"] = partitioning.MeshConfig(8, 1, 1)
    with pytest.raises(ValueError, match=r"BATCH_SIZE \(global\) = 4 is not divisible by data × fsdp"):
        train.train(str(tmp_path / "run"), **arguments)


def test_bad_settings():
    with pytest.raises(ValueError, match="train_steps must be ≥ 1; got 0"):
        LoopConfig(0)
    with pytest.raises(ValueError, match=r"ema_decay must be in \(0, 1\) or None; got 1.0"):
        LoopConfig(1, ema_decay=1.0)
    with pytest.raises(ValueError, match=r"LoopConfig.param_gather must be .*'stepp'; did you mean 'step'"):
        LoopConfig(1, param_gather="stepp")


def test_position_of_another_seed_is_refused(sums, arguments):
    layout = arguments["data"].layout
    position = BatchStream(sums.paired, layout, seed=1).position()
    with pytest.raises(ValueError, match=r"seed 1 .* does not belong to this stream of seed 2"):
        BatchStream(sums.paired, layout, seed=2).restore(position)


def test_initial_state_has_no_average_unless_asked(arguments):
    params = {"w": np.ones(2, np.float32)}
    assert init_state(params, arguments["optimizer"]).ema_params is None


def test_what_a_run_says_in_a_pipe_before_its_first_step(tmp_path, arguments, capsys):
    train.train(str(tmp_path / "run"), **arguments)
    lines = capsys.readouterr().err.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("step 4/8  loss"))
    assert lines[0] == "reading sums_paired, split 'train'"
    assert "student: 1 + 1 layers, 18,672 parameters, float32, on 1 cpu device" in lines[:first]
    assert "data: 40 examples, 72 sequences (40 label, 32 rationale)" in lines[:first]
    assert any(line.startswith("p99 of inputs is 21, mean 19, ") and "window 64: " in line for line in lines[:first])
    assert lines.index("compiling the training step") < first
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    train.train(str(tmp_path / "silent"), **arguments, quiet=True)
    assert not [line for line in capsys.readouterr().err.splitlines() if not line.startswith("WARNING")]


def test_targets_that_do_not_fit_are_told_before_training(tmp_path, arguments, capsys):
    evaluator = Evaluator(arguments["validation"].task_name, "train", lambda *_: [])
    assert evaluator.check_lengths(3) is None
    assert evaluator.check_lengths(2) == (
        "1 of 40 targets (2.5%) of task 'sums_label', split 'train', is longer than MAX_DECODE_LEN = 2 and cannot be "
        "predicted; --gin.MAX_DECODE_LEN=3 fits all"
    )
    arguments["validation"] = dataclasses.replace(arguments["validation"], split="train", test_split=None, period=1)
    decode = dataclasses.replace(arguments["validation"].decode, max_decode_len=2)
    arguments["validation"] = dataclasses.replace(arguments["validation"], decode=decode)
    arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=1)
    train.train(str(tmp_path / "run"), **arguments, quiet=True)
    assert "WARNING 1 of 40 targets (2.5%) of task 'sums_label'" in capsys.readouterr().err
    decode = dataclasses.replace(arguments["validation"].decode, max_decode_len=1)
    arguments["validation"] = dataclasses.replace(arguments["validation"], decode=decode)
    message = r"all 40 targets of task 'sums_label', split 'train', are longer than MAX_DECODE_LEN = 1 "
    with pytest.raises(ValueError, match=message):
        train.train(str(tmp_path / "none"), **arguments)


def test_a_metric_is_looked_for_before_anything_is_trained(tmp_path, arguments, monkeypatch):
    monkeypatch.setattr(train, "make_train_step", lambda *a, **k: pytest.fail("trained"))
    arguments["validation"] = dataclasses.replace(arguments["validation"], metric="acuracy")
    with pytest.raises(
        ValueError, match=r"task 'sums_label' has no metric 'acuracy'; it has .*; did you mean 'accuracy'"
    ):
        train.train(str(tmp_path / "run"), **arguments)


def test_best_parameters_that_a_checkpoint_names_are_kept_until_the_next_one(tmp_path, arguments):
    saver = Checkpoints(tmp_path, arguments["model"])
    state = make_state(
        arguments["model"],
        arguments["optimizer"],
        partitioning.MeshConfig(1, 1, 1).build(),
        partitioning.DEFAULT_RULES,
    )

    def best():
        saver.wait()
        return sorted(int(path.name) for path in (tmp_path / "best").iterdir())

    saver.save_best(1, state.params, {})
    saver.save(dataclasses.replace(state, step=np.int32(1)), {}, {"best_step": 1})
    saver.save_best(2, state.params, {})
    saver.save_best(3, state.params, {})
    assert best() == [1, 2, 3]
    saver.save_best(4, state.params, {})
    assert best() == [1, 3, 4]  # 1 is what a restart needs
    saver.save(dataclasses.replace(state, step=np.int32(5)), {}, {"best_step": 4})
    saver.save(dataclasses.replace(state, step=np.int32(6)), {}, {"best_step": 4})
    assert best() == [4]
    assert saver.agree(3) == ([4], False)
    assert best() == []
    saver.close()


def test_two_trainings_of_one_directory(tmp_path, arguments):
    from distill import locking

    with train.lock_directory(tmp_path / "run"), pytest.raises(locking.Locked, match=r"run is in use by this process"):
        train.train(str(tmp_path / "run"), **arguments)
    assert train.train(str(tmp_path / "run"), **arguments | {"validation": None}).step == 8
    assert not list((tmp_path / "run").glob(".lock*"))
