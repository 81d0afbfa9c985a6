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
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from distill.sharding import partitioning

# Logit of masked positions. It is finite, so that a row without any visible key stays finite too.
MASKED = -1e10
LANES, SUBLANES = 128, 8
# Query rows whose logits are in registers and VMEM at once; the largest number of logits per head and grid step.
_QUERY_CHUNK = 256
_MAX_LOGITS = 512 * 1024
_VMEM_BYTES = 96 * 2**20

# Projections, bias, keep, query segments and key segments of :func:`fused_attention`.
_Inputs = tuple[tuple[jax.Array, ...], jax.Array | None, jax.Array | None, Any, Any]


@runtime_checkable
class _Ref(Protocol):
    """A Pallas reference, or a view of one; Pallas exports no type of both."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> jnp.dtype: ...

    @property
    def at(self) -> Any: ...

    def __getitem__(self, index: Any, /) -> jax.Array: ...

    def __setitem__(self, index: Any, value: jax.Array, /) -> None: ...


def why_not(batch: int, query_length: int, key_length: int, num_heads: int, head_dim: int) -> str | None:
    """Returns why :func:`fused_attention` does not support these shapes on the current mesh, or None if it does.

    Args:
      batch: rows of the global batch.
      query_length, key_length: positions per row.
      num_heads: heads over all devices.
      head_dim: width of one head.
    """
    heads = num_heads // partitioning.ways("heads")
    if num_heads % partitioning.ways("heads") or batch % partitioning.ways("batch"):
        return f"{batch} rows or {num_heads} heads cannot be sharded evenly over the mesh"
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


class _Kernel(NamedTuple):
    """Static settings of both kernels."""

    heads: int
    head_dim: int
    causal: bool
    has_bias: bool
    has_keep: bool


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
    settings = _Kernel(group, head_dim, causal, bias is not None, keep is not None)
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
        _forward_kernel,
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
        _backward_kernel,
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


def _dot(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    return jax.lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32)


def _split(
    settings: _Kernel, refs: Sequence[_Ref]
) -> tuple[_Ref, _Ref, _Ref, _Ref, _Ref, _Ref | None, _Ref | None, list[_Ref]]:
    """Splits the references into the inputs that every kernel has (None if absent) and the rest."""
    (query, key, value), refs = _take_projections(refs)
    query_segments, key_segments, *rest = refs
    bias = rest.pop(0) if settings.has_bias else None
    keep = rest.pop(0) if settings.has_keep else None
    return query, key, value, query_segments, key_segments, bias, keep, rest


def _take_projections(refs: Sequence[_Ref]) -> tuple[list[_Ref], list[_Ref]]:
    """Query, key and value, [1, length, lanes] each, from the first one or two references, and the other references."""
    first, *rest = refs
    arrays = [first] if first.shape[0] == 3 else [first, rest.pop(0)]
    return [array.at[index] for array in arrays for index in range(array.shape[0])], rest


def _lay_out(by_distance: _Ref, by_position: _Ref) -> None:
    """Writes ``by_position[head, q, k] = by_distance[head, 0, k - q + queries - 1]``, tile by tile."""
    heads, queries, keys = by_position.shape
    width = queries + keys
    for head in range(heads):
        # Row q of a tile is row 0 of the tile, rolled right by q.
        rows = pltpu.roll(jnp.broadcast_to(by_distance[head], (SUBLANES, width)), keys + 1, 1)
        rows = _sheared(rows, 1)

        def write(tile: jax.Array, _: jax.Array, head: int = head, rows: jax.Array = rows) -> int:
            first = pl.multiple_of(tile * SUBLANES, SUBLANES)
            by_position[head, pl.ds(first, SUBLANES), :] = pltpu.roll(rows, first, 1)[:, :keys]
            return 0

        jax.lax.fori_loop(0, queries // SUBLANES, write, 0)


def _fold(by_position: _Ref, by_distance: _Ref) -> None:
    """The transpose of :func:`_lay_out`: ``by_distance[head, 0, d]`` is the sum of ``by_position`` over distance d."""
    heads, queries, keys = by_position.shape
    width = queries + keys
    for head in range(heads):

        def add(tile: jax.Array, total: jax.Array, head: int = head) -> jax.Array:
            first = pl.multiple_of(tile * SUBLANES, SUBLANES)
            rows = by_position[head, pl.ds(first, SUBLANES), :]
            rows = jnp.concatenate([rows, jnp.zeros((SUBLANES, queries), jnp.float32)], axis=1)
            return total + pltpu.roll(rows, queries - 1 - first, 1)

        total = jax.lax.fori_loop(0, queries // SUBLANES, add, jnp.zeros((SUBLANES, width), jnp.float32))
        # Row q of the sum must be rolled left by q.
        by_distance[head] = jnp.sum(_sheared(total, width - 1), axis=0, keepdims=True)


def _sheared(tile: jax.Array, step: int) -> jax.Array:
    """Rolls row q of ``tile`` by q · ``step``: by 1, 2 and 4 steps for the bits of q (v4 has no roll with a stride)."""
    row = jax.lax.broadcasted_iota(jnp.int32, tile.shape, 0)
    for bit in (1, 2, 4):
        tile = jnp.where(row & bit > 0, pltpu.roll(tile, bit * step % tile.shape[1], 1), tile)
    return tile


def _visible(settings: _Kernel, query_segments: _Ref, key_segments: _Ref, start: int, rows: int) -> jax.Array:
    visible = query_segments[0, start : start + rows, :] == key_segments[0]
    if settings.causal:
        query_at = start + jax.lax.broadcasted_iota(jnp.int32, visible.shape, 0)
        visible = visible & (query_at >= jax.lax.broadcasted_iota(jnp.int32, visible.shape, 1))
    return visible


def _probabilities(
    settings: _Kernel, head: int, query: _Ref, keys: jax.Array, bias: _Ref | None, here: slice, visible: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The lane mask of one head, its queries with all other lanes 0, and its probabilities, float32.

    Contracting all 128 lanes is exact because the lanes of other heads are 0.
    """
    lanes = _lanes_of(head, settings.head_dim)
    queries = _only(lanes, query[0, here, :])
    logits = _dot(queries, keys, (1, 1))
    if bias is not None:
        logits = logits + bias[head, here, :]
    logits = jnp.where(visible, logits, MASKED)
    exponentials = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return lanes, queries, exponentials / jnp.sum(exponentials, axis=1, keepdims=True)


def _lanes_of(head: int, head_dim: int) -> jax.Array:
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    return (lane >= head * head_dim) & (lane < (head + 1) * head_dim)


def _only(lanes: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(lanes, x, jnp.zeros((), x.dtype))


def _chunks(length: int) -> list[tuple[int, int]]:
    rows = min(_QUERY_CHUNK, length)
    rows = rows if length % rows == 0 else LANES
    return [(start, rows) for start in range(0, length, rows)]


def _forward_kernel(settings: _Kernel, *refs: _Ref) -> None:
    query, key, value, query_segments, key_segments, by_distance, keep, (mixed, *scratch) = _split(settings, refs)
    keys, values = key[0], value[0]
    bias: Any = scratch[0] if scratch else None
    if by_distance is not None:

        @pl.when(pl.program_id(1) == 0)
        def before_first_row() -> None:
            _lay_out(by_distance, bias)

    for start, rows in _chunks(query.shape[1]):
        here = slice(start, start + rows)
        visible = _visible(settings, query_segments, key_segments, start, rows)
        total = jnp.zeros((rows, LANES), jnp.float32)
        for head in range(settings.heads):
            lanes, _, probabilities = _probabilities(settings, head, query, keys, bias, here, visible)
            if keep is not None:
                probabilities = probabilities * keep[0, head]
            total = total + _only(lanes, _dot(probabilities.astype(values.dtype), values, (1, 0)))
        mixed[0, here, :] = total.astype(mixed.dtype)


def _backward_kernel(settings: _Kernel, *refs: _Ref) -> None:
    query, key, value, query_segments, key_segments, by_distance, keep, rest = _split(settings, refs)
    d_mixed, *rest = rest
    (d_query, d_key, d_value), rest = _take_projections(rest)
    d_by_distance: Any
    bias: Any
    d_bias: Any
    d_by_distance, bias, d_bias = rest or (None, None, None)
    keys, values = key[0], value[0]
    d_keys = jnp.zeros(keys.shape, jnp.float32)
    d_values = jnp.zeros(values.shape, jnp.float32)
    if by_distance is not None:

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            _lay_out(by_distance, bias)
            d_bias[...] = jnp.zeros_like(d_bias)

    for start, rows in _chunks(query.shape[1]):
        here = slice(start, start + rows)
        visible = _visible(settings, query_segments, key_segments, start, rows)
        d_queries = jnp.zeros((rows, LANES), jnp.float32)
        for head in range(settings.heads):
            lanes, queries, probabilities = _probabilities(settings, head, query, keys, bias, here, visible)
            d_out = _only(lanes, d_mixed[0, here, :])
            kept = probabilities if keep is None else probabilities * keep[0, head]
            d_values = d_values + _dot(kept.astype(d_out.dtype), d_out, (0, 0))
            d_probabilities = _dot(d_out, values, (1, 1))
            if keep is not None:
                d_probabilities = d_probabilities * keep[0, head]
            mean = jnp.sum(d_probabilities * probabilities, axis=1, keepdims=True)
            d_logits = jnp.where(visible, probabilities * (d_probabilities - mean), 0.0)
            if d_bias is not None:
                d_bias[head, here, :] += d_logits
            d_logits = d_logits.astype(queries.dtype)
            d_queries = d_queries + _only(lanes, _dot(d_logits, keys, (1, 0)))
            d_keys = d_keys + _dot(d_logits, queries, (0, 0))
        d_query[0, here, :] = d_queries.astype(d_query.dtype)
    d_key[0] = d_keys.astype(d_key.dtype)
    d_value[0] = d_values.astype(d_value.dtype)
    if by_distance is not None:

        @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
        def _() -> None:
            _fold(d_bias, d_by_distance)
