"""Which implementation of attention computes which shapes on which platform."""

import functools
import logging
from typing import NamedTuple

import jax

from distill.sharding import cudnn_attention, fused_attention, gpu_attention, partitioning, windowed_attention

# What ``auto`` tries on a platform, in this order, before ``xla``, which computes everything.
_PREFERRED = {"tpu": ("pallas",), "gpu": ("triton", "cudnn"), "cuda": ("triton", "cudnn")}


class Shapes(NamedTuple):
    """The shapes of one attention layer on all devices.

    Attributes:
      batch: rows.
      query_length, key_length: positions per row.
      heads: number of heads.
      head_dim: width of one head.
      dtype: dtype of query, key and value.
      kv_heads: heads of keys and values in the attention of the Gemma family; None for T5's attention.
    """

    batch: int
    query_length: int
    key_length: int
    heads: int
    head_dim: int
    dtype: jax.typing.DTypeLike
    kv_heads: int | None = None


def choose(wanted: str, shapes: Shapes) -> str:
    """Returns the implementation that computes ``shapes``: ``xla``, ``pallas``, ``cudnn`` or ``triton``.

    Args:
      wanted: one of :data:`distill.model.config.ATTENTIONS`. For ``auto``, a message says once what is chosen. If another
        one cannot compute the shapes, a warning says so once, with the reason, and ``xla`` computes them.
      shapes: the shapes.
    """
    if wanted == "xla":
        return "xla"
    device = partitioning.platform()
    if wanted != "auto":
        reason = _why_not(wanted, shapes, device)
        if reason is None:
            if wanted == "pallas" and device != "tpu":
                slow = f"attention with the Pallas kernel is interpreted on {device}, which is slow"
                _log_once(
                    logging.WARNING, f'{slow}: it is compiled for TPUs only; ATTENTION="auto" chooses what is fast'
                )
            return wanted
        _log_once(logging.WARNING, f"attention runs without {_NAMES[wanted]}: {reason}")
        return "xla"
    reasons = []
    for one in _PREFERRED.get(device, ()):
        reason = _why_not(one, shapes, device)
        if reason is None:
            _log_once(logging.INFO, f'attention="auto" chose {one} on {device}')
            return one
        reasons.append(f" ({one}: {reason})")
    _log_once(logging.INFO, f'attention="auto" chose xla on {device}{"".join(reasons)}')
    return "xla"


_NAMES = {"pallas": "the Pallas kernel", "cudnn": "cuDNN", "triton": "the Triton kernels"}


def _why_not(kind: str, shapes: Shapes, device: str) -> str | None:
    if shapes.kv_heads is not None:
        if kind == "pallas":
            return windowed_attention.why_not(*shapes[:-1], shapes.kv_heads)
        return f"{'they have' if kind == 'triton' else 'it has'} no windows, soft caps and grouped heads"
    if kind == "pallas":
        return fused_attention.why_not(*shapes[:5])
    if kind == "triton":
        on_gpu = device in ("gpu", "cuda")
        return gpu_attention.why_not(*shapes[:5]) if on_gpu else f"they run on NVIDIA GPUs, not on {device}"
    return cudnn_attention.why_not(shapes.query_length, shapes.key_length, shapes.head_dim, shapes.dtype, device)


@functools.cache
def _log_once(level: int, message: str) -> None:
    logging.log(level, "%s", message)
