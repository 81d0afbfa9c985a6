"""Shared parts of benchmarks that compare two programs on one CPU: threads, alternating timings, ratios, a student."""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distill import triton_loading

if TYPE_CHECKING:
    import numpy as np

    from distill.model.network import T5Config


def use_threads(threads: int) -> None:
    """Binds the process to ``threads`` cores and limits XLA and OpenMP to them. Call it before importing jax or torch.

    Loads Triton, where it is installed: torch does so later, which fails beside TensorFlow (:mod:`distill.triton_loading`).

    Args:
      threads: number of cores, counted from the last one down.

    Raises:
      ValueError: the process may not use this many cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise ValueError(f"--threads must be in [1, {len(cores)}], the cores of this process; got {threads}")
    if threads == 1:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # PyTorch's threads wait by spinning. If other processes need the cores, a spinning thread takes time slices from
    # the thread it waits for, and the side appears ten times slower than it is.
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("GOMP_SPINCOUNT", "0"), ("KMP_BLOCKTIME", "0")):
        os.environ.setdefault(name, value)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.sched_setaffinity(0, set(cores[-threads:]))
    triton_loading.load()


class Timing(NamedTuple):
    """The timing of one call of one side.

    Attributes:
      seconds: wall-clock time.
      cpu_seconds: processor time of all threads of this process. With one thread it is the time of the work itself,
        even if other processes use the core too.
      result: the value that the call returned.
    """

    seconds: float
    cpu_seconds: float
    result: Any = None


def timed(call: Callable[[], Any]) -> Timing:
    """Calls once."""
    started, used = time.perf_counter(), time.process_time()
    result = call()
    return Timing(time.perf_counter() - started, time.process_time() - used, result)


def in_turn(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Timing]]:
    """Times every side once per round, ``rounds`` times; every second round runs the sides in reverse order."""
    times: dict[str, list[Timing]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            times[name].append(timed(sides[name])._replace(result=None))
    return times


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Returns median, minimum and maximum of ``theirs / ours`` over the rounds; above 1 means ours is faster."""
    found = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {name: round(of(found), 3) for name, of in (("median", statistics.median), ("least", min), ("most", max))}


def endless_params(config: "T5Config", seed: int = 0) -> dict[str, Any]:
    """Returns random parameters of a student that never generates EOS, so that all sides decode the full length.

    The logits of padding and EOS are 0. Some of the other, random logits are positive, so these two are never the
    maximum.

    Args:
      config: the student's configuration; its output kernel must be separate (``logits_via_embedding`` off).
      seed: seed of the parameters.

    Raises:
      ValueError: the output kernel is the token table.
    """
    import jax
    import numpy as np

    from distill.model.parameters import init_params

    if config.logits_via_embedding:
        raise ValueError("a student that never ends requires a separate output kernel; got logits_via_embedding=True")
    params = jax.tree.map(np.array, jax.jit(lambda key: init_params(config, key))(jax.random.key(seed)))
    params["decoder"]["logits_dense"]["kernel"][:, :2] = 0.0
    return params


def load_transformers(folder: str | Path, threads: int) -> Any:
    """Loads the model of a folder exported by this project, ready to ``generate`` with ``threads`` threads."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def transformers_generate(model: Any, ids: "np.ndarray", **options: Any) -> "np.ndarray":
    """Returns the tokens that ``model.generate`` decodes from ``ids`` [rows, inputs] (0: padding), no start token."""
    import torch

    with torch.inference_mode():
        batch = torch.from_numpy(ids).long()
        return model.generate(batch, attention_mask=(batch != 0).long(), do_sample=False, **options)[:, 1:].numpy()


def padded(rows: Sequence["np.ndarray"], fill: int = 0, dtype: str = "int32") -> "np.ndarray":
    """Pads the rows with ``fill`` to the longest one; returns one array of ``dtype``."""
    import numpy as np

    out = np.full((len(rows), max(map(len, rows))), fill, dtype)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def input_rows(number: int, mean: float, vocab: int, seed: int = 0, spread: float = 0.25) -> list["np.ndarray"]:
    """Returns rows of random int32 tokens with EOS at the end and log-normal lengths.

    Args:
      number: number of rows.
      mean: mean tokens per row, including EOS. CommonsenseQA's inputs have 50 T5 tokens.
      vocab: tokens are drawn from 3 to ``vocab`` - 1.
      seed: seed of lengths and tokens.
      spread: standard deviation of the length's logarithm.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    lengths = np.maximum(2, rng.lognormal(math.log(mean) - spread**2 / 2, spread, number).round().astype(int))
    rows = [rng.integers(3, vocab, length, dtype=np.int32) for length in lengths]
    for row in rows:
        row[-1] = 1
    return rows
