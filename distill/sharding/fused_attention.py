"""Attention for TPUs as one Pallas kernel: no [batch, heads, query, key] array ever reaches HBM, forward or backward.

T5's attention adds a learned bias to the logits, attends only within a segment of a packed row, and applies dropout
with one draw per key. The kernel does all of this. One grid step holds, in VMEM, the whole query and key length of one
row for as many heads as fill 128 lanes, and computes logits, softmax and weighted values there. The backward kernel
recomputes the probabilities instead of reading them (the idea of FlashAttention, Dao et al. 2022, arXiv 2205.14135;
T5's rows are short enough that no online softmax is needed). Heads keep the layout of the projections, so nothing is
transposed. Query, key and value are read from the one array that their joint matmul produced, so nothing is sliced or
concatenated.

The bias depends only on the distance between key and query. So the kernel reads one number per head and distance, and
expands them to positions in VMEM before a head's first row. The gradient of the bias is accumulated over a device's
rows in VMEM and reduced to distances after the last row. Across devices it is all-reduced once, after the last layer.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from distill.sharding import partitioning
from distill.sharding.attention_kernels import LANES, Settings, backward_kernel, forward_kernel

# The largest number of logits per head and grid step.
_MAX_LOGITS = 512 * 1024
_VMEM_BYTES = 96 * 2**20

# Projections, bias, keep, query segments and key segments of :func:`fused_attention`.
_Inputs = tuple[tuple[jax.Array, ...], jax.Array | None, jax.Array | None, Any, Any]


def why_not(batch: int, query_length: int, key_length: int, num_heads: int, head_dim: int) -> str | None:
    """Returns why :func:`fused_attention` does not support these shapes on the current mesh, or None if it does.

    Args:
      batch: rows of the global batch.
      query_length, key_length: positions per row.
      num_heads: heads over all devices.
      head_dim: width of one head.
    """
    heads = num_heads // partitioning.ways("heads")
    if (reason := partitioning.why_uneven(batch, num_heads)) is not None:
        return reason
    if LANES % head_dim or heads % (LANES // head_dim):
        return f"{heads} heads of {head_dim} per device do not fill {LANES} lanes"
    if query_length % LANES or key_length % LANES:
        return f"lengths {query_length} and {key_length} are no multiples of {LANES}"
    if query_length * key_length > _MAX_LOGITS:
        return f"{query_length} × {key_length} logits per head do not fit in VMEM"
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def fused_attention(
    projections: (
        tuple[Float[Array, "3 batch query joined"]]
        | tuple[Float[Array, "1 batch query joined"], Float[Array, "2 batch key joined"]]
    ),
    bias: Float[Array, "shards heads distances"] | None,
    keep: Float[Array, "batch heads 1 key"] | None,
    query_segments: Int[Array, "batch query"],
    key_segments: Int[Array, "batch key"],
    head_dim: int,
    causal: bool,
) -> Float[Array, "batch query joined"]:
    """Multi-head attention within segments: ``(softmax(q kᵀ + bias) · keep) v``.

    On TPUs the kernel is compiled. On other platforms it is interpreted, which is slow and meant for tests. Rows are
    sharded over the mesh axes of the logical axis ``batch`` and heads over those of ``heads``; no data crosses devices.

    Args:
      projections: queries, keys and values, the heads side by side in the last axis. Either one array
        [3, batch, length, joined] of query, key and value; or two arrays: the query [1, batch, query, joined], and key
        and value [2, batch, key, joined]. Matmul inputs have their dtype; logits and softmax are float32.
      bias: float32, added to the logits, or None. With Q query positions, index d holds the bias of the distance
        (key position - query position) d + 1 - Q; no pair of positions has the last one. One equal copy per shard of
        the batch, so that the gradients of many layers are all-reduced once.
      keep: float32 dropout factor per key, 0 or 1 / keep rate, equal for all queries. None applies no dropout.
      query_segments, key_segments: a query attends only to keys of the same segment.
      head_dim: width of one head.
      causal: whether a query attends only to keys at or before its own position.

    Returns:
      The weighted values, in the dtype of ``projections``.

    Raises:
      ValueError: shapes that are not supported; the message gives the reason from :func:`why_not`.
    """
    _, batch, query_length, joined = projections[0].shape
    reason = why_not(batch, query_length, projections[-1].shape[2], joined // head_dim, head_dim)
    if reason is not None:
        raise ValueError(f"fused attention does not support these shapes: {reason}")
    return _sharded(_forward_local, head_dim, causal, projections, bias, keep, query_segments, key_segments)


def _forward(
    projections: tuple[jax.Array, ...],
    bias: jax.Array | None,
    keep: jax.Array | None,
    query_segments: Any,
    key_segments: Any,
    head_dim: int,
    causal: bool,
) -> tuple[jax.Array, _Inputs]:
    inputs = (projections, bias, keep, query_segments, key_segments)
    return fused_attention(*inputs, head_dim, causal), inputs


def _backward(
    head_dim: int, causal: bool, inputs: _Inputs, d_mixed: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array | None, jax.Array | None, None, None]:
    keep = inputs[2]
    d_projections, d_bias = _sharded(_backward_local, head_dim, causal, *inputs, d_mixed)
    return d_projections, d_bias, None if keep is None else jnp.zeros_like(keep), None, None


fused_attention.defvjp(_forward, _backward)


def _sharded(local: Callable[..., Any], head_dim: int, causal: bool, *arguments: Any) -> Any:
    """Runs ``local`` under ``shard_map`` on each device's rows and heads."""
    projections, bias, keep, *_, more = (*arguments[:5], arguments[5:])
    batch, heads = partitioning.axes_of("batch"), partitioning.axes_of("heads")
    rows = PartitionSpec(batch, None, heads)
    projected = tuple(PartitionSpec(None, *rows) for _ in projections)
    bias_spec = None if bias is None else PartitionSpec(batch, heads)
    keep_spec = None if keep is None else PartitionSpec(batch, heads)
    segment_spec = PartitionSpec(batch)
    in_specs = (projected, bias_spec, keep_spec, segment_spec, segment_spec, *(rows for _ in more))
    out_specs = rows if local is _forward_local else (projected, bias_spec)
    run = functools.partial(local, head_dim, causal)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return run(*arguments)
    # pallas_call does not declare over which mesh axes its outputs vary, so the check is off.
    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*arguments)


def _call(
    kernel: Callable[..., None],
    head_dim: int,
    causal: bool,
    arguments: tuple[Any, ...],
    out_shape: Sequence[jax.ShapeDtypeStruct],
    out_specs: Sequence[str],
    *,
    name: str,
    matmuls: int,
    laid_out: int,
) -> Sequence[jax.Array]:
    """``pallas_call`` over the grid (head groups, rows), with the block specs that both directions share.

    ``laid_out`` is the number of float32 scratch arrays [heads, query, key] in VMEM; they exist only if there is a
    bias.
    """
    projections, bias, keep, query_segments, key_segments, *more = arguments
    _, batch, query_length, joined = projections[0].shape
    key_length = projections[-1].shape[2]
    group = LANES // head_dim
    settings = Settings(group, head_dim, causal, bias is not None, keep is not None)
    at_query = pl.BlockSpec((1, query_length, LANES), lambda h, b: (b, 0, h))
    at_bias = pl.BlockSpec((group, 1, query_length + key_length), lambda h, b: (h, 0, 0))
    inputs: list[tuple[Any, pl.BlockSpec]] = [
        *((array, _at_projections(array)) for array in projections),
        (query_segments[:, :, None], pl.BlockSpec((1, query_length, 1), lambda h, b: (b, 0, 0))),
        (key_segments[:, None, :], pl.BlockSpec((1, 1, key_length), lambda h, b: (b, 0, 0))),
    ]
    if bias is not None:
        inputs.append((bias[0, :, None, :], at_bias))
    if keep is not None:
        inputs.append((keep, pl.BlockSpec((1, group, 1, key_length), lambda h, b: (b, h, 0, 0))))
    inputs += [(array, at_query) for array in more]
    specs = {"mixed": [at_query], "projections": [_at_projections(array) for array in projections], "bias": [at_bias]}
    moved = sum(array.size * array.dtype.itemsize for array, _ in inputs)
    moved += sum(math.prod(shape.shape) * shape.dtype.itemsize for shape in out_shape)
    logits = batch * (joined // head_dim) * query_length * key_length
    by_position = pltpu.VMEM((group, query_length, key_length), jnp.float32)

    def call(interpret: bool) -> Callable[..., Sequence[jax.Array]]:
        return pl.pallas_call(
            functools.partial(kernel, settings),
            grid=(joined // LANES, batch),
            in_specs=[spec for _, spec in inputs],
            out_specs=[spec for name in out_specs for spec in specs[name]],
            out_shape=out_shape,
            scratch_shapes=[] if bias is None else [by_position] * laid_out,
            name=name,
            interpret=interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=_VMEM_BYTES
            ),
            cost_estimate=pl.CostEstimate(
                flops=2 * matmuls * logits * head_dim, transcendentals=logits, bytes_accessed=moved
            ),
        )

    arrays = [array for array, _ in inputs]
    return jax.lax.platform_dependent(*arrays, tpu=call(interpret=False), default=call(interpret=True))


def _at_projections(array: jax.Array) -> pl.BlockSpec:
    """The block of one row and one head group of every projection in ``array``."""
    projections, _, length, _ = array.shape
    return pl.BlockSpec((projections, 1, length, LANES), lambda h, b: (0, b, 0, h))


def _forward_local(head_dim: int, causal: bool, *arguments: Any) -> jax.Array:
    query = arguments[0][0]
    out_shape = [jax.ShapeDtypeStruct(query.shape[1:], query.dtype)]
    (mixed,) = _call(
        forward_kernel,
        head_dim,
        causal,
        arguments,
        out_shape,
        ["mixed"],
        name="attention_forward",
        matmuls=2,
        laid_out=1,
    )
    return mixed


def _backward_local(head_dim: int, causal: bool, *arguments: Any) -> tuple[tuple[jax.Array, ...], jax.Array | None]:
    projections, bias = arguments[:2]
    out_shape = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in projections]
    out_specs = ["projections"]
    if bias is not None:
        heads, distances = bias.shape[1:]
        out_shape.append(jax.ShapeDtypeStruct((heads, 1, distances), jnp.float32))
        out_specs.append("bias")
    outputs = _call(
        backward_kernel,
        head_dim,
        causal,
        arguments,
        out_shape,
        out_specs,
        name="attention_backward",
        matmuls=5,
        laid_out=2,
    )
    d_projections = tuple(outputs[: len(projections)])
    return d_projections, None if bias is None else outputs[-1][None, :, 0, :]
