"""Attention for NVIDIA GPUs as Pallas kernels that Triton compiles: no [batch, heads, query, key] array reaches memory.

The GPU counterpart of :mod:`distill.sharding.fused_attention`: T5's attention, with a position bias that is added to
the logits, within the segments of a packed row. The kernels follow FlashAttention-2 (Dao 2023, arXiv 2307.08691): an
online softmax forward, and a backward pass that recomputes the probabilities from the log-sum-exp of each query.

Dropout with one draw per key scales the rows of the values, so the caller multiplies the values by the factors.

A kernel visits only the blocks of keys whose range of segment ids overlaps that of its queries. Segments of a packed
row are contiguous, so most blocks of a long row are skipped. Unsorted segments cost time, not correctness.

The gradient of the bias is a sum over the batch. Its kernel recomputes the logits once more, one tile of positions at a
time over the rows that see the tile. So it needs no atomic addition and its result is deterministic.
"""

import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from distill.sharding import gpu_attention_kernels as kernels
from distill.sharding import partitioning
from distill.sharding.gpu_attention_kernels import Tile

plgpu: Any = None
with contextlib.suppress(ImportError):  # JAX 0.11 announces that a later version will not have this backend
    plgpu = importlib.import_module("jax.experimental.pallas.triton")

# Triton's matrix products need 16 positions, and its arrays a power of two of elements.
_MIN_BLOCK = 16
_MAX_LENGTH = 1024
# Exact float32 products run without tensor cores and need more registers.
_MAX_FLOAT32_BLOCK = 32
# Wider heads need more warps, or registers spill to memory.
_WIDE, _WIDE_WARPS = 64, 8
# Fewer queries per block need fewer warps: measured on an H100, docs/results.md.
_FEW_QUERIES = 32
# Programs that fill a GPU; the rows of the bias's gradient are divided among programs until this number is reached.
_PROGRAMS = 2048
_MAX_CHUNKS = 32
_ROWS, _HEADS = "batch", "heads"
# ``KEPT`` of :mod:`distill.model.attention`.
_KEPT = "kept"


class Tiles(NamedTuple):
    """The tile of each kernel; a block is halved until it divides its length.

    The defaults were fastest, or within 3 % of it, on an H100 with heads of 64 and lengths of 96 to 256.

    Attributes:
      forward: of the forward kernel.
      d_query: of the kernel of the queries' gradient.
      d_key_value: of the kernel of the keys' and values' gradients.
      d_bias: of the kernel of the bias's gradient.
    """

    forward: Tile = Tile(64, 64, 4, 2)
    d_query: Tile = Tile(64, 32, 4, 3)
    d_key_value: Tile = Tile(64, 64, 4, 3)
    d_bias: Tile = Tile(64, 64, 4, 2)


# Instead of the defaults where a block has few queries.
_FEW = Tiles(Tile(32, 32, 1, 2), Tile(32, 32, 2, 3), Tile(32, 64, 4, 3), Tile(32, 32, 2, 2))


def why_not(batch: int, query_length: int, key_length: int, num_heads: int, head_dim: int) -> str | None:
    """Returns why :func:`gpu_attention` does not support these shapes on the current mesh, or None if it does.

    Args:
      batch: rows of the global batch.
      query_length, key_length: positions per row.
      num_heads: heads over all devices.
      head_dim: width of one head.
    """
    if plgpu is None:
        return f"JAX {jax.__version__} has no Triton backend for Pallas"
    if (reason := partitioning.why_uneven(batch, num_heads)) is not None:
        return reason
    if head_dim not in (16, 32, 64, 128):
        return f"heads of {head_dim} are not of 16, 32, 64 or 128"
    if query_length % _MIN_BLOCK or key_length % _MIN_BLOCK:
        return f"lengths {query_length} and {key_length} are no multiples of {_MIN_BLOCK}"
    if max(query_length, key_length) > _MAX_LENGTH:
        return f"lengths {query_length} and {key_length} exceed {_MAX_LENGTH}"
    if batch * num_heads * head_dim * max(query_length, key_length) >= 2**31:
        return f"{batch} rows × {num_heads} heads of {head_dim} have more elements than a 32-bit offset reaches"
    return None


def default_tiles(query_length: int, head_dim: int) -> Tiles:
    """Tiles for a number of query positions and the width of a head."""
    few = head_dim <= _WIDE and math.gcd(Tiles().forward.query, query_length) <= _FEW_QUERIES
    return _FEW if few else Tiles()


def gpu_attention(
    query: Float[Array, "batch query heads kv"],
    key: Float[Array, "batch key heads kv"],
    value: Float[Array, "batch key heads kv"],
    bias: Float[Array, "heads query key"] | None,
    query_segments: Int[Array, "batch query"],
    key_segments: Int[Array, "batch key"],
    *,
    causal: bool,
    interpret: bool = False,
    tiles: Tiles | None = None,
) -> Float[Array, "batch query heads kv"]:
    """Multi-head attention within segments, without the factor 1/√kv: ``softmax(q kᵀ + bias) v``.

    Rows are sharded over the mesh axes of the logical axis ``batch`` and heads over those of ``heads``. Gradients are
    those of ``query``, ``key``, ``value`` and ``bias``; that of ``bias`` is all-reduced over the shards of the batch.

    Args:
      query, key, value: bfloat16 or float32, all of one dtype. Matmul inputs have their dtype; logits, softmax and all
        sums are float32. Products of float32 are exact, not TF32.
      bias: float32, added to the logits, or None.
      query_segments, key_segments: int32; a query attends only to keys of the same segment. The result of a query
        without any such key is 0, and so are its gradients.
      causal: whether a query attends only to keys at or before its own position.
      interpret: whether Pallas interprets the kernels, on any platform; slow, for tests.
      tiles: sizes of the kernels' tiles; None: :func:`default_tiles`.

    Returns:
      The weighted values, in the dtype of ``query``.

    Raises:
      ValueError: shapes that are not supported; the message gives the reason from :func:`why_not`.
    """
    batch, query_length, heads, head_dim = query.shape
    reason = why_not(batch, query_length, key.shape[1], heads, head_dim)
    if reason is not None:
        raise ValueError(f"GPU attention does not support these shapes: {reason}")
    how = _How(causal, interpret, tiles or default_tiles(query_length, head_dim))
    return _attention(query, key, value, bias, query_segments, key_segments, how)


class _How(NamedTuple):
    """The static arguments of :func:`gpu_attention`."""

    causal: bool
    interpret: bool
    tiles: Tiles


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attention(
    query: Any, key: Any, value: Any, bias: Any, query_segments: Any, key_segments: Any, how: _How
) -> jax.Array:
    return _forward(query, key, value, bias, query_segments, key_segments, how)[0]


def _forward(
    query: Any, key: Any, value: Any, bias: Any, query_segments: Any, key_segments: Any, how: _How
) -> tuple[jax.Array, tuple[Any, ...]]:
    inputs = (query, key, value, bias, query_segments, key_segments)
    mixed, lse = _sharded(_forward_local, how, *inputs)
    # Saved by name, so that ``remat_policy="elementwise"`` does not run the forward kernel twice.
    mixed, lse = checkpoint_name(mixed, _KEPT), checkpoint_name(lse, _KEPT)
    return mixed, (*inputs, mixed, lse)


def _backward(how: _How, saved: tuple[Any, ...], d_mixed: jax.Array) -> tuple[Any, ...]:
    *inputs, mixed, lse = saved
    # [batch, heads, query]: the sum over keys of probability × its gradient.
    delta = jnp.sum(mixed.astype(jnp.float32) * d_mixed.astype(jnp.float32), axis=-1).swapaxes(1, 2)
    return (*_sharded(_backward_local, how, *inputs, d_mixed, lse, delta), None, None)


_attention.defvjp(_forward, _backward)


def _sharded(local: Callable[..., Any], how: _How, *arguments: Any) -> Any:
    """Runs ``local`` under ``shard_map`` on each device's rows and heads."""
    batch, heads = partitioning.axes_of(_ROWS), partitioning.axes_of(_HEADS)
    rows, by_head = PartitionSpec(batch, None, heads), PartitionSpec(batch, heads)
    bias = None if arguments[3] is None else PartitionSpec(heads)
    segments = PartitionSpec(batch)
    backward = (rows, by_head, by_head)[: len(arguments) - 6]
    in_specs = (rows, rows, rows, bias, segments, segments, *backward)
    out_specs = (rows, rows, rows, bias) if backward else (rows, by_head)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(how, (), *arguments)
    run = functools.partial(local, how, batch)
    # pallas_call does not declare over which mesh axes its outputs vary, so the check is off.
    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*arguments)


def fit(tile: Tile, query: Float[Array, "batch query heads kv"], key_length: int) -> Tile:
    """``tile`` with blocks that divide the lengths, and with enough warps to hold wide heads in registers."""
    _, query_length, _, head_dim = query.shape
    most = _MAX_FLOAT32_BLOCK if query.dtype == jnp.float32 else _MAX_LENGTH
    return tile._replace(
        query=math.gcd(min(tile.query, most), query_length),
        key=math.gcd(min(tile.key, most), key_length),
        num_warps=max(tile.num_warps, _WIDE_WARPS) if head_dim > _WIDE else tile.num_warps,
    )


def _overlap(
    query_segments: Int[Array, "batch query"], key_segments: Int[Array, "batch key"], tile: Tile, causal: bool
) -> Bool[Array, "batch query_blocks key_blocks"]:
    """Whether a query of the block may see a key of the block, from the ranges of their segment ids."""
    queries = query_segments.reshape(query_segments.shape[0], -1, tile.query)
    keys = key_segments.reshape(key_segments.shape[0], -1, tile.key)
    overlap = queries.min(-1)[:, :, None] <= keys.max(-1)[:, None, :]
    overlap &= keys.min(-1)[:, None, :] <= queries.max(-1)[:, :, None]
    if causal:
        last_query = (jnp.arange(queries.shape[1]) + 1) * tile.query - 1
        first_key = jnp.arange(keys.shape[1]) * tile.key
        overlap &= (last_query[:, None] >= first_key[None, :])[None]
    return overlap


def _range(overlap: Bool[Array, "batch blocks others"]) -> Int[Array, "batch blocks 2"]:
    """The first of the ``others`` that overlaps each block, and one more than the last; 0 and 0 if none does."""
    numbers = jnp.arange(overlap.shape[-1], dtype=jnp.int32)[None, None, :]
    end = jnp.max(jnp.where(overlap, numbers + 1, 0), axis=-1)
    start = jnp.min(jnp.where(overlap, numbers, end[..., None]), axis=-1)
    return jnp.stack([start, end], axis=-1)


def _rows_of_tiles(overlap: Bool[Array, "batch blocks others"]) -> Int[Array, "blocks others batch_and_1"]:
    """The rows in which each pair of blocks overlaps, in order and padded with 0, followed by their number."""
    batch = overlap.shape[0]
    numbers = jnp.arange(batch, dtype=jnp.int32)
    place = jnp.cumsum(overlap, axis=0, dtype=jnp.int32)
    here = overlap[..., None] & (place[..., None] - 1 == numbers[None, None, None, :])
    rows = jnp.sum(jnp.where(here, numbers[:, None, None, None], 0), axis=0)
    return jnp.concatenate([rows, place[-1][..., None]], axis=-1)


def _call(
    kernel: Callable[..., None],
    name: str,
    how: _How,
    tile: Tile,
    grid: tuple[int, ...],
    inputs: Sequence[tuple[jax.Array, pl.BlockSpec]],
    outputs: Sequence[tuple[jax.ShapeDtypeStruct, pl.BlockSpec]],
) -> Sequence[jax.Array]:
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[spec for _, spec in inputs],
        out_specs=[spec for _, spec in outputs],
        out_shape=[shape for shape, _ in outputs],
        name=name,
        interpret=how.interpret,
        compiler_params=plgpu.CompilerParams(num_warps=tile.num_warps, num_stages=tile.num_stages),
    )(*(array for array, _ in inputs))


class _Specs:
    """Block specs over the grid (blocks, heads, rows): the block of a program, or the whole length of its row."""

    def __init__(self, block: int, whole: int, head_dim: int) -> None:
        self.block = pl.BlockSpec((None, block, None, head_dim), lambda i, h, b: (b, i, h, 0))
        self.whole = pl.BlockSpec((None, whole, None, head_dim), lambda i, h, b: (b, 0, h, 0))
        self.block_segments = pl.BlockSpec((None, block), lambda i, h, b: (b, i))
        self.whole_segments = pl.BlockSpec((None, whole), lambda i, h, b: (b, 0))
        self.range = pl.BlockSpec((None, None, 2), lambda i, h, b: (b, i, 0))
        self.bias = pl.BlockSpec((None, block, whole), lambda i, h, b: (h, i, 0))
        self.block_sums = pl.BlockSpec((None, None, block), lambda i, h, b: (b, h, i))
        self.whole_sums = pl.BlockSpec((None, None, whole), lambda i, h, b: (b, h, 0))


def _by_query(
    arguments: Sequence[Any], tile: Tile, causal: bool
) -> tuple[tuple[int, ...], _Specs, list[tuple[jax.Array, pl.BlockSpec]]]:
    """Grid, specs and common inputs of the kernels whose programs own a block of queries."""
    query, key, value, bias, query_segments, key_segments = arguments
    batch, query_length, heads, head_dim = query.shape
    specs = _Specs(tile.query, key.shape[1], head_dim)
    visited = _range(_overlap(query_segments, key_segments, tile, causal))
    inputs = [
        (query, specs.block),
        (key, specs.whole),
        (value, specs.whole),
        (query_segments, specs.block_segments),
        (key_segments, specs.whole_segments),
        (visited, specs.range),
    ]
    if bias is not None:
        inputs.append((bias, specs.bias))
    return (query_length // tile.query, heads, batch), specs, inputs


def _forward_local(how: _How, _: Any, *inputs: Any) -> tuple[jax.Array, jax.Array]:
    query, key, _, bias, *_ = inputs
    batch, query_length, heads, _ = query.shape
    tile = fit(how.tiles.forward, query, key.shape[1])
    grid, specs, arrays = _by_query(inputs, tile, how.causal)
    outputs = [
        (jax.ShapeDtypeStruct(query.shape, query.dtype), specs.block),
        (jax.ShapeDtypeStruct((batch, heads, query_length), jnp.float32), specs.block_sums),
    ]
    kernel = functools.partial(kernels.forward_kernel, tile, how.causal, bias is not None)
    mixed, lse = _call(kernel, "gpu_attention_forward", how, tile, grid, arrays, outputs)
    return mixed, lse


def _backward_local(how: _How, batch_axes: tuple[str, ...], *arguments: Any) -> tuple[Any, ...]:
    bias = arguments[3]
    d_query = _d_query(how, *arguments)
    d_key, d_value = _d_key_value(how, *arguments)
    d_bias = None if bias is None else _d_bias(how, *arguments)
    if d_bias is not None and batch_axes:
        d_bias = jax.lax.psum(d_bias, batch_axes)
    return d_query, d_key, d_value, d_bias


def _d_query(how: _How, *arguments: Any) -> jax.Array:
    query, key, _, bias, *_, d_mixed, lse, delta = arguments
    tile = fit(how.tiles.d_query, query, key.shape[1])
    grid, specs, arrays = _by_query(arguments[:6], tile, how.causal)
    arrays += [(d_mixed, specs.block), (lse, specs.block_sums), (delta, specs.block_sums)]
    outputs = [(jax.ShapeDtypeStruct(query.shape, query.dtype), specs.block)]
    kernel = functools.partial(kernels.d_query_kernel, tile, how.causal, bias is not None)
    (d_query,) = _call(kernel, "gpu_attention_d_query", how, tile, grid, arrays, outputs)
    return d_query


def _d_key_value(how: _How, *arguments: Any) -> Sequence[jax.Array]:
    query, key, value, bias, query_segments, key_segments, d_mixed, lse, delta = arguments
    batch, key_length, heads, head_dim = key.shape
    tile = fit(how.tiles.d_key_value, query, key_length)
    specs = _Specs(tile.key, query.shape[1], head_dim)
    visited = _range(jnp.swapaxes(_overlap(query_segments, key_segments, tile, how.causal), 1, 2))
    arrays = [
        (query, specs.whole),
        (key, specs.block),
        (value, specs.block),
        (query_segments, specs.whole_segments),
        (key_segments, specs.block_segments),
        (visited, specs.range),
    ]
    if bias is not None:
        arrays.append((jnp.swapaxes(bias, 1, 2), specs.bias))
    arrays += [(d_mixed, specs.whole), (lse, specs.whole_sums), (delta, specs.whole_sums)]
    outputs = [(jax.ShapeDtypeStruct(array.shape, array.dtype), specs.block) for array in (key, value)]
    kernel = functools.partial(kernels.d_key_value_kernel, tile, how.causal, bias is not None)
    grid = (key_length // tile.key, heads, batch)
    return _call(kernel, "gpu_attention_d_key_value", how, tile, grid, arrays, outputs)


def _d_bias(how: _How, *arguments: Any) -> jax.Array:
    query, key, value, bias, query_segments, key_segments, d_mixed, lse, delta = arguments
    batch, query_length, heads, head_dim = query.shape
    key_length = key.shape[1]
    tile = fit(how.tiles.d_bias, query, key_length)
    blocks = key_length // tile.key, query_length // tile.query, heads
    chunks = max(1, min(batch, _MAX_CHUNKS, _PROGRAMS // math.prod(blocks)))
    rows = _rows_of_tiles(_overlap(query_segments, key_segments, tile, how.causal))
    at_query = pl.BlockSpec((batch, tile.query, None, head_dim), lambda k, q, h, c: (0, q, h, 0))
    at_key = pl.BlockSpec((batch, tile.key, None, head_dim), lambda k, q, h, c: (0, k, h, 0))
    sums = pl.BlockSpec((batch, None, tile.query), lambda k, q, h, c: (0, h, q))
    arrays = [
        (query, at_query),
        (key, at_key),
        (value, at_key),
        (query_segments, pl.BlockSpec((batch, tile.query), lambda k, q, h, c: (0, q))),
        (key_segments, pl.BlockSpec((batch, tile.key), lambda k, q, h, c: (0, k))),
        (rows, pl.BlockSpec((None, None, batch + 1), lambda k, q, h, c: (q, k, 0))),
        (bias, pl.BlockSpec((None, tile.query, tile.key), lambda k, q, h, c: (h, q, k))),
        (d_mixed, at_query),
        (lse, sums),
        (delta, sums),
    ]
    partial = pl.BlockSpec((None, None, tile.query, tile.key), lambda k, q, h, c: (c, h, q, k))
    outputs = [(jax.ShapeDtypeStruct((chunks, *bias.shape), jnp.float32), partial)]
    kernel = functools.partial(kernels.d_bias_kernel, tile, how.causal, chunks)
    (d_bias,) = _call(kernel, "gpu_attention_d_bias", how, tile, (*blocks, chunks), arrays, outputs)
    return jnp.sum(d_bias, axis=0)
