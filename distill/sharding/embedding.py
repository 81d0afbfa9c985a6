"""Embedding lookup with a gradient that compiles fast.

XLA lowers the gradient of a lookup to a scatter-add that sorts the token ids first, and the size of the sort program
grows faster than the number of ids. So the gradient is accumulated in float32 in a loop over chunks of a few thousand
tokens.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, Real

from distill.array_types import AnyArray
from distill.sharding import partitioning

# Logical axis of the batch during the lookup. Its rule names the mesh axes of "batch" that do not shard "embed".
LOOKUP_BATCH = "lookup_batch"
# The largest number of tokens per scatter-add.
_CHUNK = 4096


def lookup(
    table: Real[AnyArray, "vocab embed"], tokens: Int[AnyArray, "batch length"], dtype: jnp.dtype
) -> Float[Array, "batch length embed"]:
    """Returns ``table[tokens]`` in ``dtype``. A token outside [0, vocab) yields NaN and contributes no gradient.

    The gradient of ``table`` is float32. Under a mesh, rows are sharded by the logical axis ``batch`` and the table by
    ``vocab`` and ``embed``. Each device accumulates the gradient of its local rows into its shard of the table, and
    partial sums for a table row are all-reduced once.

    The batch and the table's ``embed`` dimension may share a mesh axis. If the rules have an axis ``lookup_batch``, the
    tokens are first replicated over that mesh axis. Each device looks up its slice of ``embed`` for all these rows, and
    one all-to-all then gives each device the full width of its local rows. Otherwise the compiler replicates all
    looked-up rows on all devices.
    """
    tokens = nn.with_logical_constraint(tokens, (_batch_axis(), "length"))
    rows = _lookup(table, tokens, table.shape[0], dtype)
    rows = nn.with_logical_constraint(rows, (_batch_axis(), "length", "embed"))
    return nn.with_logical_constraint(rows, ("batch", "length", "embed"))


def _batch_axis() -> str:
    """The logical axis of the token rows during the lookup."""
    return LOOKUP_BATCH if LOOKUP_BATCH in dict(nn.get_logical_axis_rules()) else "batch"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _lookup(table: AnyArray, tokens: AnyArray, vocab_size: int, dtype: jnp.dtype) -> jax.Array:
    return jnp.take(table, _never_negative(tokens, vocab_size), axis=0).astype(dtype)


def _forward(table: AnyArray, tokens: AnyArray, vocab_size: int, dtype: jnp.dtype) -> tuple[jax.Array, AnyArray]:
    return _lookup(table, tokens, vocab_size, dtype), tokens


def _backward(vocab_size: int, dtype: jnp.dtype, tokens: AnyArray, d_rows: jax.Array) -> tuple[jax.Array, None]:
    del dtype
    mesh, rules = jax.sharding.get_abstract_mesh(), nn.get_logical_axis_rules()
    if mesh.empty or mesh.size == 1 or not rules:
        return _added(vocab_size, 0, tokens, d_rows), None
    by_row = partitioning.spec_for((_batch_axis(), "length", "embed"), d_rows.shape, mesh, rules)
    by_table = partitioning.spec_for(("vocab", "embed"), (vocab_size, d_rows.shape[-1]), mesh, rules)
    vocab = partitioning.mesh_axes(by_table[0])
    held = vocab_size // math.prod(mesh.shape[axis] for axis in vocab)

    def local(tokens: AnyArray, d_rows: jax.Array) -> jax.Array:
        first = jax.lax.axis_index(vocab) * held if vocab else 0
        return _added(held, first, tokens, d_rows)[None]

    # One copy of the table per shard of the batch, so that the compiler may add several lookups before it all-reduces.
    copies = jax.shard_map(
        local,
        in_specs=(PartitionSpec(*by_row[:2]), by_row),
        out_specs=PartitionSpec(by_row[0], by_table[0], by_row[2]),
        check_vma=False,
    )(tokens, d_rows)
    return jnp.sum(copies, axis=0), None


_lookup.defvjp(_forward, _backward)


def _added(vocab_size: int, first: int | jax.Array, tokens: AnyArray, d_rows: jax.Array) -> jax.Array:
    """float32 [vocab_size, embed]: the sum of ``d_rows`` at rows ``tokens - first``; rows out of range are dropped."""
    numbers = _never_negative(tokens.reshape(-1) - first, vocab_size)
    values = d_rows.reshape(-1, d_rows.shape[-1])
    pieces = -(-numbers.size // _CHUNK)
    chunk = -(-numbers.size // pieces)
    fill = pieces * chunk - numbers.size
    numbers = jnp.pad(numbers, (0, fill), constant_values=vocab_size).reshape(-1, chunk)
    values = jnp.pad(values, ((0, fill), (0, 0))).reshape(-1, chunk, values.shape[-1])

    def add(total: jax.Array, piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        numbers, values = piece
        return total.at[numbers].add(values.astype(jnp.float32), mode="drop"), None

    total = jnp.zeros((vocab_size, d_rows.shape[-1]), jnp.float32)
    return jax.lax.scan(add, total, (numbers, values))[0]


def _never_negative(numbers: AnyArray, vocab_size: int) -> jax.Array:
    """Replaces negative ids, which would index from the end, by ``vocab_size``, which is out of range."""
    return jnp.where(numbers < 0, vocab_size, numbers)
