"""Faults of the storage and the machine are recognised in the exceptions of every library that reads or writes."""

import asyncio
import contextlib
import errno
import gc
import logging
import sys
import types

import pytest
from absl import logging as absl_logging
from orbax.checkpoint._src.futures.future import CommitFuture
from orbax.checkpoint._src.path import storage_backend

from distill.checkpoints import manager, storage_errors
from distill.checkpoints.storage_errors import of_machine

FULL = OSError(errno.ENOSPC, "No space left on device", "runs/a")


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EFBIG, "File too large"),
        PermissionError(errno.EACCES, "Permission denied", "/x"),
        ValueError('RESOURCE_EXHAUSTED: Error writing "d/3" [fd=7]: No space left on device [OS error 28: ENOSPC]'),
        ValueError("UNAVAILABLE: Error reading gs://b/c: HTTP response code: 503"),
        ValueError("PERMISSION_DENIED: Error opening gs://b/c"),
        RuntimeError("saving failed: Disk quota exceeded"),
    ],
)
def test_faults_of_the_machine(error):
    assert of_machine(error) is error


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        FileExistsError(errno.EEXIST, "File exists", "x"),
        ValueError("DATA_LOSS: Error reading a chunk: zstd: corrupt"),
        ValueError("BATCH_SIZE must be positive; got 0"),
        KeyError("x"),
    ],
)
def test_mistakes_and_damage_are_not(error):
    assert of_machine(error) is None


def test_a_fault_is_found_among_the_causes():
    with pytest.raises(RuntimeError) as caught:
        try:
            raise FULL
        except OSError as error:
            raise RuntimeError("the writer thread failed") from error
    assert of_machine(caught.value) is FULL
    with pytest.raises(ValueError) as hidden:
        try:
            raise FULL
        except OSError:
            raise ValueError("no such folder; use another") from None
    assert of_machine(hidden.value) is None


def test_errors_of_tensorflow():
    import tensorflow as tf

    assert of_machine(tf.errors.UnavailableError(None, None, "try later")) is not None
    assert of_machine(tf.errors.NotFoundError(None, None, "gs://b/c")) is None


REFUSED = PermissionError(errno.EACCES, "Permission denied", "gs://bucket/checkpoints/10")


@pytest.mark.parametrize(
    ("error", "verbose", "logged"),
    [(REFUSED, False, 0), (REFUSED, True, 1), (ValueError("DATA_LOSS: corrupt"), False, 1)],
)
def test_a_fault_in_a_thread_of_orbax_is_raised_and_not_logged_as_well(error, verbose, logged, caplog):
    async def refuse():
        raise error

    assert storage_errors.one_line in absl_logging.get_absl_logger().filters, manager
    with caplog.at_level(logging.INFO if verbose else logging.WARNING), pytest.raises(type(error)):
        CommitFuture(refuse(), name="test").result()
    shown = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(shown) == logged and all(record.exc_info for record in shown)


@pytest.mark.parametrize(
    ("kind", "given", "logged"),
    [(OSError, (errno.ENOSPC, "No space left on device"), 0), (ValueError, ("BATCH_SIZE must be positive; got 0",), 1)],
)
def test_arrays_that_fail_together_are_one_error(kind, given, logged, caplog):
    async def fail():
        raise kind(*given)

    async def save():
        tasks = [asyncio.ensure_future(fail()) for _ in range(2)]
        await asyncio.sleep(0)
        with contextlib.suppress(kind):
            await tasks[0]

    assert storage_errors.one_line in logging.getLogger("asyncio").filters, manager
    asyncio.run(save())
    gc.collect()
    assert ["never retrieved" in record.getMessage() for record in caplog.records] == [True] * logged


def test_a_write_that_ends_after_its_save_prints_nothing(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    storage_errors.hide_late_writes()
    hook = sys.unraisablehook
    storage_errors.hide_late_writes()
    assert sys.unraisablehook is hook  # once
    late = asyncio.new_event_loop()
    late.close()
    with pytest.raises(RuntimeError) as closed:
        late.call_soon_threadsafe(print)
    other = RuntimeError("another error")
    for error in (closed.value, other):
        hook(types.SimpleNamespace(exc_value=error))
    assert [found.exc_value for found in shown] == [other]


def test_a_fault_that_orbax_only_logs_is_one_line(caplog, monkeypatch):
    def refuse(self):
        raise REFUSED

    monkeypatch.setattr(storage_backend.epath, "Path", lambda path: types.SimpleNamespace(rmtree=lambda: refuse(path)))
    backend = storage_backend.LocalStorageBackend()
    backend.delete_checkpoint("gs://bucket/checkpoints/10")
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "Failed to remove checkpoint (gs://bucket/checkpoints/10): [Errno 13] Permission"
    )
    assert record.exc_info is None and "\n" not in caplog.text.strip()
