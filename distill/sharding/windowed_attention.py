"""Attention of the Gemma family for TPUs as one Pallas kernel: grouped heads, windows, soft caps, merged keys.

No [batch, heads, query, key] array reaches HBM, forward or backward. One grid step holds, in VMEM, all keys of one row
and key head, and a block of its queries for all query heads that read this key head. The backward kernel recomputes the
probabilities, as in :mod:`distill.sharding.fused_attention`, and sums the gradients of keys and values over query heads
and query blocks in VMEM. Rotary embeddings and norms of queries and keys are applied before.

The window is an input of the kernel, so local and global layers of a scan share one program. In a local layer, a query
block reads the keys of its window only. JAX's splash attention takes static windows and one segment id per query; with a
shared encoder, merged attention needs two.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from distill.sharding import partitioning
from distill.sharding.attention_kernels import LANES
from distill.sharding.windowed_attention_kernels import Near, Settings, backward_kernel, forward_kernel, keys_read

__all__ = ["Near", "Settings", "why_not", "windowed_attention"]

# Logits per head and grid step: more make programs that compile slowly.
_MAX_LOGITS = 512 * 1024
# Query blocks, in the order of preference.
_ROWS = (512, 384, 256, 128, 64, 32)
# Bytes of VMEM that the arrays of a grid step may take, and those that the compiler may take with its temporaries.
# A v4 core has 16 MiB; cores of later chips have at least 64 MiB.
_VMEM_V4, _VMEM = (15 * 2**20, 16 * 2**20), (44 * 2**20, 60 * 2**20)
# Float32 arrays of logits that are in VMEM at once, at most, as compiled.
_LOGITS_ARRAYS = 6

# The arrays of :func:`windowed_attention`.
_Inputs = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, Any, Any, Any]


def why_not(
    batch: int,
    query_length: int,
    key_length: int,
    num_heads: int,
    head_dim: int,
    dtype: jax.typing.DTypeLike,
    kv_heads: int,
) -> str | None:
    """Returns why :func:`windowed_attention` does not support these shapes on the current mesh, or None if it does.

    Args:
      batch: rows of the global batch.
      query_length, key_length: positions per row; merged keys count.
      num_heads: query heads over all devices.
      head_dim: width of one head.
      dtype: dtype of query, key and value.
      kv_heads: heads of keys and values over all devices.
    """
    if (reason := partitioning.why_uneven(batch, num_heads)) is not None:
        return reason
    ways = partitioning.ways("heads")
    if kv_heads % ways and ways % kv_heads:
        return f"{kv_heads} key heads cannot be sharded evenly over {ways} devices"
    if head_dim % LANES and (LANES % head_dim or kv_heads != num_heads or kv_heads // ways % (LANES // head_dim)):
        return f"{num_heads} query and {kv_heads} key heads of {head_dim} on {ways} devices do not fill {LANES} lanes"
    if query_length % LANES or key_length % LANES:
        return f"lengths {query_length} and {key_length} are no multiples of {LANES}"
    group = num_heads // max(kv_heads, ways)
    if not _rows_of(query_length, key_length, group * max(head_dim, LANES), max(head_dim, LANES), dtype):
        return f"{key_length} keys per row do not fit in VMEM"
    return None


def _rows_of(query_length: int, key_length: int, queries: int, keys: int, dtype: jax.typing.DTypeLike) -> int:
    """The queries per grid step, whose arrays fit in VMEM; 0 if no number does.

    ``queries`` and ``keys`` are the widths of the blocks of query and key heads.
    """
    size = jnp.dtype(dtype).itemsize
    # Inputs and outputs are double-buffered. The sums of the gradients of keys and values, and what is added, are float32;
    # products of float32 matrices take as much again.
    of_keys = 2 * 4 * key_length * keys * size + 3 * key_length * keys * 2 * size
    for rows in (rows for rows in _ROWS if query_length % rows == 0 and rows * key_length <= _MAX_LOGITS):
        of_queries = 2 * 3 * rows * queries * size
        if of_keys + of_queries + _LOGITS_ARRAYS * rows * key_length * 4 <= _vmem_bytes()[0]:
            return rows
    return 0


def _vmem_bytes() -> tuple[int, int]:
    return _VMEM_V4 if "v4" in partitioning.device_kind().lower() else _VMEM


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def windowed_attention(
    query: Float[Array, "batch query joined"],
    key: Float[Array, "batch key kv_joined"],
    value: Float[Array, "batch key kv_joined"],
    keep: Float[Array, "batch heads 1 key"] | None,
    query_segments: Int[Array, "one_or_two batch query"],
    key_segments: Int[Array, "batch key"],
    reach: Int[Array, "2"],
    settings: Settings,
) -> Float[Array, "batch query joined"]:
    """Grouped attention within segments and a window: ``(softmax(capped(scale · q kᵀ)) · keep) v``.

    On TPUs the kernel is compiled. On other platforms it is interpreted, which is slow and meant for tests. Rows are
    sharded over the mesh axes of the logical axis ``batch`` and heads over those of ``heads``. Key heads that are fewer
    than the devices of ``heads`` must be repeated before, one per device. No data crosses devices.

    Args:
      query: the query heads side by side in the last axis. Matmul inputs have its dtype; logits and softmax are float32.
      key, value: likewise, ``group`` times fewer heads; query head h reads key head ``h // group``.
      keep: float32 dropout factor per key, 0 or 1 / keep rate, equal for all queries. None applies no dropout.
      query_segments: int32, for the first ``own`` keys and, if there are more, for the keys after them.
      key_segments: int32; a query attends only to keys of the same segment.
      reach: int32, the largest distance of one of the first ``own`` keys before and after a query. Distances are those of
        positions in the row. Causal attention has 0 after.
      settings: see there.

    Returns:
      The weighted values, in the dtype of ``value``. A query that sees no key gets the mean of the values
      that are read.

    Raises:
      ValueError: shapes that are not supported; the message gives the reason from :func:`why_not`.
    """
    batch, query_length, joined = query.shape
    reason = why_not(
        batch,
        query_length,
        key.shape[1],
        joined // settings.head_dim,
        settings.head_dim,
        query.dtype,
        key.shape[2] // settings.head_dim,
    )
    if reason is not None:
        raise ValueError(f"windowed attention does not support these shapes: {reason}")
    (mixed,) = _sharded(False, settings, query, key, value, keep, query_segments, key_segments, reach)
    return mixed


def _forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    keep: jax.Array | None,
    query_segments: Any,
    key_segments: Any,
    reach: Any,
    settings: Settings,
) -> tuple[jax.Array, _Inputs]:
    inputs = (query, key, value, keep, query_segments, key_segments, reach)
    return windowed_attention(*inputs, settings), inputs


def _backward(
    settings: Settings, inputs: _Inputs, d_mixed: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, None, None, None]:
    keep = inputs[3]
    d_query, d_key, d_value = _sharded(True, settings, *inputs, d_mixed)
    return d_query, d_key, d_value, None if keep is None else jnp.zeros_like(keep), None, None, None


windowed_attention.defvjp(_forward, _backward)


def _sharded(backward: bool, settings: Settings, *arguments: Any) -> Sequence[jax.Array]:
    """Runs a kernel under ``shard_map`` on each device's rows and heads."""
    run = functools.partial(_call, backward, settings)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return run(*arguments)
    batch, heads = partitioning.axes_of("batch"), partitioning.axes_of("heads")
    rows = PartitionSpec(batch, None, heads)
    keep_spec = None if arguments[3] is None else PartitionSpec(batch, heads)
    ids = (PartitionSpec(None, batch), PartitionSpec(batch), PartitionSpec())
    in_specs = (rows, rows, rows, keep_spec, *ids, *(rows for _ in arguments[7:]))
    out_specs = (rows, rows, rows) if backward else (rows,)
    # pallas_call does not declare over which mesh axes its outputs vary, so the check is off.
    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*arguments)


def _call(
    backward: bool,
    settings: Settings,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    keep: jax.Array | None,
    query_segments: jax.Array,
    key_segments: jax.Array,
    reach: jax.Array,
    *more: jax.Array,
) -> Sequence[jax.Array]:
    """``pallas_call`` over the grid (key heads, rows, query blocks) of one device."""
    (batch, query_length, joined), key_length = query.shape, key.shape[1]
    wide = max(LANES, settings.head_dim)
    rows = _rows_of(query_length, key_length, settings.group * wide, wide, query.dtype)
    heads = settings.group * wide // settings.head_dim
    at_query = pl.BlockSpec((1, rows, settings.group * wide), lambda h, b, i: (b, i, h))
    at_key = pl.BlockSpec((1, key_length, wide), lambda h, b, i: (b, 0, h))
    inputs: list[tuple[jax.Array, pl.BlockSpec]] = [
        (reach, pl.BlockSpec(memory_space=pltpu.SMEM)),
        (query, at_query),
        (key, at_key),
        (value, at_key),
        (query_segments[..., None], pl.BlockSpec((len(query_segments), 1, rows, 1), lambda h, b, i: (0, b, i, 0))),
        (key_segments[:, None, :], pl.BlockSpec((1, 1, key_length), lambda h, b, i: (b, 0, 0))),
    ]
    if keep is not None:
        inputs.append((keep, pl.BlockSpec((1, heads, 1, key_length), lambda h, b, i: (b, h, 0, 0))))
    inputs += [(array, at_query) for array in more]
    results = (query, key, value) if backward else (query,)
    out_shape = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in results]
    logits = round(batch * (joined // settings.head_dim) * query_length * keys_read(settings, rows, key_length))
    moved = sum(array.size * array.dtype.itemsize for array, _ in inputs)
    moved += sum(array.size * array.dtype.itemsize for array in results)
    kernel = backward_kernel if backward else forward_kernel

    def call(interpret: bool) -> Callable[..., Sequence[jax.Array]]:
        return pl.pallas_call(
            functools.partial(kernel, settings, heads, keep is not None),
            grid=(joined // (settings.group * wide), batch, query_length // rows),
            in_specs=[spec for _, spec in inputs],
            out_specs=[at_query, at_key, at_key] if backward else [at_query],
            out_shape=out_shape,
            scratch_shapes=[pltpu.VMEM((key_length, wide), jnp.float32)] * 2 if backward else [],
            name=f"windowed_attention_{'backward' if backward else 'forward'}",
            interpret=interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=_vmem_bytes()[1]
            ),
            cost_estimate=pl.CostEstimate(
                flops=2 * (5 if backward else 2) * logits * settings.head_dim,
                transcendentals=logits * (1 if settings.cap is None else 2),
                bytes_accessed=moved,
            ),
        )

    arrays = [array for array, _ in inputs]
    return jax.lax.platform_dependent(*arrays, tpu=call(interpret=False), default=call(interpret=True))
