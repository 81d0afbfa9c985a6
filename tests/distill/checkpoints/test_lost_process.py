"""Errors of a process that was killed are recognised in every type and wording that two killed processes raised."""

import logging

import jax
import pytest
from etils import epath

from distill.checkpoints import integrity, lost_process, storage_errors
from distill.checkpoints.digests import Damaged
from distill.checkpoints.watchdog import SaveError

# As raised under JAX 0.9 by the survivor of two processes, the other killed in a step, in a save, and at a barrier.
REDUCE = (
    "UNKNOWN: Gloo all-reduce failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer "
    "[127.0.0.1]:21376"
)
GATHER = (
    "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:538] Read error [127.0.0.1]:22938: "
    "Connection reset by peer"
)
HEARTBEAT = (
    "INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat timeout. This indicates that "
    "the remote task has failed, got preempted, or crashed unexpectedly. Barrier Id: checkpoints_start::1, Task: 1\n\n"
    "RPC: /xla.coordination.CoordinationService/Barrier"
)
FIRST = (
    "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was preempted/died/restarted "
    "unexpectedly or this task is experiencing network issues.\nAdditional GRPC error information: Connection reset by peer"
)
UNHEALTHY = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1\nThe tasks have crashed."
SLOW = "DEADLINE_EXCEEDED: Barrier timed out. Id: distill_compiled::1. This usually happens because a task was too slow"
# Storage, devices and configurations use the same words.
OTHERS = [
    ValueError("UNAVAILABLE: Error reading gs://b/c: Connection reset by peer"),
    ValueError("ABORTED: Error writing gs://b/c: HTTP response code: 503"),
    ValueError("TASK 'barrier' is not registered; the tasks are 'gloo', 'coordination service'"),
    ValueError("DATA_LOSS: Error reading a chunk: zstd: corrupt"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes\n%opt-barrier = tuple()"),
    TimeoutError("the server did not answer"),
    ConnectionResetError(104, "Connection reset by peer"),
]


@pytest.mark.parametrize("kind", [ValueError, jax.errors.JaxRuntimeError])
@pytest.mark.parametrize("text", [REDUCE, GATHER, HEARTBEAT, FIRST, UNHEALTHY, SLOW])
def test_what_a_killed_process_causes(kind, text):
    error = kind(text)
    assert lost_process.cause(error) is error
    line = lost_process.message(error)
    assert line.startswith("another process of the run has ended or no longer answers (") and "\n" not in line
    assert line.endswith("); start all processes again")


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_are_not(error):
    assert lost_process.cause(error) is None
    with pytest.raises(type(error)) as caught, lost_process.naming_newest("nowhere"):
        raise error
    assert caught.value is error


def failing_save():
    """As Orbax and :func:`distill.checkpoints.watchdog.saving` raise it."""
    try:
        try:
            raise jax.errors.JaxRuntimeError(HEARTBEAT)
        except jax.errors.JaxRuntimeError as error:
            raise TimeoutError("Timed out while waiting for async_write_complete barrier.") from error
    except TimeoutError as error:
        raise SaveError("a checkpoint could not be written to runs/a: TimeoutError: Timed out") from error


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            ["5", "20", "30.orbax-checkpoint-tmp"],
            "step 20 is the newest complete checkpoint in {}: start all processes again, and the run continues from "
            "step 20",
        ),
        (
            ["5.orbax-checkpoint-tmp"],
            "{} holds no complete checkpoint: start all processes again, and the run begins again",
        ),
        (None, "{} holds no complete checkpoint: start all processes again, and the run begins again"),
    ],
)
def test_the_newest_complete_step_and_the_remedy(steps, expected, tmp_path):
    folder = tmp_path / "checkpoints"
    for name in steps or ():
        (folder / name).mkdir(parents=True)
    with pytest.raises(lost_process.LostProcess) as caught, lost_process.naming_newest(folder):
        failing_save()
    assert str(caught.value).endswith(f"Task: 1); {expected.format(folder)}")
    assert isinstance(caught.value.__cause__, SaveError)
    assert lost_process.message(caught.value) == str(caught.value)
    with pytest.raises(lost_process.LostProcess) as again, lost_process.naming_newest("elsewhere"):
        raise caught.value
    assert again.value is caught.value


def test_a_process_that_is_lost_during_a_restore_is_no_damage():
    folder = epath.Path("runs/a/checkpoints/20")
    with pytest.raises(ValueError, match="Gloo AllGather") as caught, integrity.damage_named(folder):
        raise ValueError(GATHER)
    assert not isinstance(caught.value, Damaged)


def test_orbax_logs_no_traceback_of_it():
    def record(error):
        return logging.LogRecord("absl", logging.ERROR, "", 1, "failed", (), (type(error), error, None))

    logging.getLogger().setLevel(logging.WARNING)
    assert not storage_errors.one_line(record(jax.errors.JaxRuntimeError(HEARTBEAT)))
    assert storage_errors.one_line(record(KeyError("a bug")))
