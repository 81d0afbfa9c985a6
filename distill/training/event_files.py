"""Writes and reads TensorBoard event files: plain scalars, and the settings of a run for the HParams plugin."""

import json
import logging
import math
import sys
import time
import types
from collections.abc import Mapping
from typing import Any

from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.event_file_writer import EventFileWriter

_FLUSH_S = 10.0


class ScalarWriter:
    """Appends scalars to the event files of a folder.

    Starts with a session-start event, at which readers drop the values that an earlier process wrote for later steps.

    Args:
      directory: local or ``gs://``.
      step: the step to continue from; 0 drops all earlier values.
    """

    def __init__(self, directory: epath.PathLike, step: int):
        self._writer = EventFileWriter(str(directory), flush_secs=int(_FLUSH_S))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        # No value is logged at step 0. A first event at a later step would look like a gap.
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step + 1, session_log=start))
        self._flushed = time.monotonic()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes ``values`` (tag → number) for ``step``; they reach the disk within seconds."""
        summary = summary_pb2.Summary(
            value=[summary_pb2.Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()]
        )
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed > _FLUSH_S:
            self.flush()

    def write_settings(self, name: str, settings: Mapping[str, Any], metrics: Mapping[str, str]) -> None:
        """Writes the settings of a run for the HParams plugin, once per run.

        Args:
          name: of the run in the plugin's table.
          settings: setting → value. Values other than numbers and texts are written as JSON.
          metrics: tag of a scalar → its name in the table.
        """
        plain = (bool, int, float, str)
        values = {key: value if isinstance(value, plain) else json.dumps(value) for key, value in settings.items()}
        columns = [hparams.Metric(tag, display_name=shown) for tag, shown in metrics.items()]
        for summary in (
            hparams.hparams_config_pb([hparams.HParam(key) for key in values], columns),
            hparams.hparams_pb(values, trial_id=name),
        ):
            self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=0, summary=summary))
        self.flush()

    def flush(self) -> None:
        """Blocks until all values are in the file."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


def without_tensorflow() -> None:
    """Lets TensorBoard read local files without TensorFlow, whose import takes seconds, unless it is imported already.

    ``tensorboard.compat`` takes its own file system where a module of this name exists.
    """
    if "tensorflow" not in sys.modules:
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))


def read(directory: epath.PathLike) -> dict[str, list[tuple[int, float]]]:
    """Returns the finite scalars of a folder's event files: tag → (step, value), ordered by step."""
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    logger = logging.getLogger("tensorboard")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns at every session start
    try:
        events.Reload()
    finally:
        logger.setLevel(level)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag) if math.isfinite(event.value)]
        for tag in events.Tags()["scalars"]
    }
