"""A weighted cross-entropy computed from hidden states, in chunks and sharded, without materialising all logits."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from distill.sharding import partitioning
from distill.sharding.cross_entropy_chunk import Gradients, TokenStats, chunk_of_positions

# Positions per piece of the loop over counted positions.
_PIECE = 256


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 8))
def weighted_cross_entropy(
    hidden: Float[Array, "batch length embed"],
    kernel: Float[Array, "embed vocab"],
    targets: Int[Array, "batch length"],
    weights: Float[Array, "batch length"],
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk_tokens: int = 0,
    counted: Bool[Array, "batch length"] | None = None,
    logit_cap: float | None = None,
) -> tuple[Float[Array, ""], TokenStats]:
    """``Σ weights · (CE + z_loss · log²Z)`` from hidden states, without the [batch, length, vocab] logits.

    Logits are materialised for one chunk of target positions at a time. The loss is a sum with known weights, so the
    forward pass computes a chunk's gradients while its logits exist. The backward pass recomputes nothing and only
    scales them (the idea of Liger kernels' fused linear cross-entropy, arXiv 2410.10989).

    Args:
      hidden: decoder output. The matmul's inputs have its dtype; accumulation is float32.
      kernel: the output projection. Its gradient is accumulated in float32 on each device and reduced across devices in
        the dtype of ``hidden``. A kernel that is not differentiated, because it is frozen, has none.
      targets: target ids in [0, vocab).
      weights: token weights, float32; 0 ignores a token.
      z_loss: coefficient of ``log²Z``.
      label_smoothing: as in :class:`distill.training.losses.TwoTaskLoss`.
      chunk_tokens: each device materialises logits for at most this many target positions (rows × length); 0 does not
        chunk.
      counted: positions whose statistics are needed. All others must have weight 0; their statistics are undefined. On
        one CPU, no logits are computed for them. None counts all positions.
      logit_cap: logits are ``logit_cap · tanh(hidden @ kernel / logit_cap)``; None leaves them uncapped.

    Returns:
      The loss, a float32 scalar, and :class:`TokenStats`.
    """
    arrays = (hidden, kernel, targets, weights, counted)
    loss, stats, _ = _chunked(*arrays, z_loss, label_smoothing, chunk_tokens, logit_cap, with_gradients=False)
    return loss, stats


def _forward(
    hidden: CustomVJPPrimal,
    kernel: CustomVJPPrimal,
    targets: CustomVJPPrimal,
    weights: CustomVJPPrimal,
    z_loss: float,
    label_smoothing: float,
    chunk_tokens: int,
    counted: CustomVJPPrimal | None,
    logit_cap: float | None,
) -> tuple[tuple[jax.Array, TokenStats], Gradients | None]:
    arrays = (hidden.value, kernel.value, targets.value, weights.value, None if counted is None else counted.value)
    is_trained = kernel.perturbed
    loss, stats, gradients = _chunked(
        *arrays, z_loss, label_smoothing, chunk_tokens, logit_cap, with_gradients=True, of_kernel=is_trained
    )
    return (loss, stats), gradients


def _backward(
    z_loss: float,
    label_smoothing: float,
    chunk_tokens: int,
    logit_cap: float | None,
    gradients: Gradients,
    cotangents: tuple[jax.Array | SymbolicZero, TokenStats],
) -> tuple[jax.Array | None, jax.Array | None, None, jax.Array | None, None]:
    del z_loss, label_smoothing, chunk_tokens, logit_cap
    scale = cotangents[0]
    if isinstance(scale, SymbolicZero):  # only the statistics are differentiated, which have no gradient
        return None, None, None, None, None
    d_hidden, d_kernel, d_weights = gradients
    d_hidden = d_hidden * scale.astype(d_hidden.dtype)
    d_kernel = None if d_kernel is None else d_kernel * scale.astype(d_kernel.dtype)
    return d_hidden, d_kernel, None, d_weights * scale, None


weighted_cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)


def _number_of_chunks(batch: int, length: int, chunk_tokens: int) -> int:
    """The smallest number of equal cuts of ``length`` with at most ``chunk_tokens`` positions per chunk."""
    if chunk_tokens <= 0:
        return 1
    for chunks in range(1, length + 1):
        if length % chunks == 0 and batch * (length // chunks) <= chunk_tokens:
            return chunks
    return length


def _chunked(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    counted: jax.Array | None,
    z_loss: float,
    label_smoothing: float,
    chunk_tokens: int,
    logit_cap: float | None,
    with_gradients: bool,
    of_kernel: bool = True,
) -> tuple[jax.Array, TokenStats, Gradients | None]:
    """Loss, stats and gradients. Each device materialises the logits of its local rows, chunk by chunk.

    The kernel's gradient is computed only if ``of_kernel``.

    There are two ways to shard the logits. By default, a device computes the logits of its local rows with the whole
    kernel (or with its shard of ``vocab``). The kernel's gradient is then reduced across devices once, after the last
    chunk, in the compute dtype. (The compiler would reduce it in float32 and, where ``embed`` is sharded, once per
    chunk.) If the kernel is sharded over devices with different rows, and those rows are few compared with the
    vocabulary, each device instead computes the logits of all their rows for a shard of the vocabulary. That exchanges
    hidden states, and neither the kernel nor its gradient. A batch that is not sharded, or not evenly, is left to the
    compiler. On one CPU, :func:`_counted_pieces` skips positions that do not count.
    """
    run = functools.partial(
        _local_chunks,
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        logit_cap=logit_cap,
        chunk_tokens=chunk_tokens,
        with_gradients=with_gradients,
        of_kernel=of_kernel,
    )
    batch = partitioning.axes_of("batch")
    if counted is not None and partitioning.is_one_cpu():
        return _counted_pieces(
            hidden, kernel, targets, weights, counted, chunk_tokens,
            functools.partial(
                chunk_of_positions, z_loss=z_loss, label_smoothing=label_smoothing, logit_cap=logit_cap,
                of_kernel=of_kernel, exchanged=(), held=(),
            ),
            with_gradients,
            of_kernel,
        )  # fmt: skip
    if partitioning.ways("batch") == 1 or hidden.shape[0] % partitioning.ways("batch"):
        return run(hidden, kernel, targets, weights)
    sizes = jax.sharding.get_abstract_mesh().shape
    sharded = tuple(axis for axis in partitioning.axes_of("embed") if axis in batch and sizes[axis] > 1)
    pieces = math.prod(sizes[axis] for axis in sharded)
    tokens = hidden.shape[0] // partitioning.ways("batch") * hidden.shape[1]
    held = tuple(axis for axis in partitioning.axes_of("vocab") if axis not in batch and sizes[axis] > 1)
    held = held if kernel.shape[1] % math.prod(sizes[axis] for axis in held) == 0 else ()
    over = sharded if _is_vocabulary_split(pieces, tokens, kernel.shape[1]) else ()
    scatter = () if over or kernel.shape[0] % pieces else sharded
    # Cast before the exchange: the kernel may be the float32 token table.
    dtype, kernel = kernel.dtype, kernel.astype(hidden.dtype)

    def local(
        hidden: jax.Array, kernel: jax.Array, targets: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, TokenStats, Gradients | None]:
        loss, stats, gradients = run(hidden, kernel, targets, weights, exchanged=over, held=held)
        loss = jax.lax.psum(loss, tuple(axis for axis in batch if axis not in over))
        if gradients is None:
            return loss, stats, None
        d_hidden, d_kernel, d_weights = gradients
        if d_kernel is None:
            return loss, stats, (d_hidden, None, d_weights)
        if scatter:
            d_kernel = jax.lax.psum_scatter(d_kernel, scatter, scatter_dimension=0, tiled=True)
        d_kernel = jax.lax.psum(d_kernel, tuple(axis for axis in batch if axis not in (*over, *scatter)))
        return loss, stats, (d_hidden, d_kernel.astype(dtype), d_weights)

    rows, columns = PartitionSpec(batch), (*over, *held) or None
    stats_specs: Any = TokenStats(rows, rows)  # type: ignore[arg-type]
    of_columns = PartitionSpec(scatter or None, columns) if of_kernel else None
    gradient_specs = (rows, of_columns, rows) if with_gradients else None
    return jax.shard_map(
        local,
        in_specs=(rows, PartitionSpec(None, columns), rows, rows),
        out_specs=(PartitionSpec(), stats_specs, gradient_specs),
        check_vma=False,
    )(hidden, kernel, targets, weights)


def _is_vocabulary_split(pieces: int, tokens: int, vocab: int) -> bool:
    """Whether ``pieces`` devices, with ``tokens`` target positions each, shard the vocabulary or gather the kernel.

    The cost is counted in rows of ``embed`` numbers that each device sends. Sharding the vocabulary gathers hidden
    states and reduce-scatters their gradients. Otherwise the kernel is all-gathered and its gradient is all-reduced,
    which costs twice as much as a gather (the compiler does not turn it into a reduce-scatter).
    """
    model = partitioning.ways("vocab")
    return pieces > 1 and vocab % (pieces * model) == 0 and 2 * pieces * tokens <= 3 * vocab // model


def _local_chunks(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    z_loss: float,
    label_smoothing: float,
    logit_cap: float | None,
    chunk_tokens: int,
    with_gradients: bool,
    of_kernel: bool,
    exchanged: tuple[str, ...] = (),
    held: tuple[str, ...] = (),
) -> tuple[jax.Array, TokenStats, Gradients | None]:
    batch, length, _ = hidden.shape
    chunks = _number_of_chunks(batch, length, chunk_tokens)
    one_chunk = functools.partial(
        chunk_of_positions,
        kernel=kernel,
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        logit_cap=logit_cap,
        with_gradients=with_gradients,
        of_kernel=of_kernel,
        exchanged=exchanged,
        held=held,
    )
    if chunks == 1:
        loss, stats, d_hidden, d_kernel, d_weights = one_chunk(hidden, targets, weights)
        return loss, stats, (d_hidden, _cast(d_kernel, kernel.dtype), d_weights) if with_gradients else None

    def cut(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(batch, chunks, length // chunks, *x.shape[2:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(batch, length, *x.shape[3:])

    def body(
        carry: tuple[jax.Array, jax.Array | None], xs: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array | None], tuple[TokenStats, jax.Array | None, jax.Array | None]]:
        loss, d_kernel = carry
        part, stats, d_hidden, d_kernel_part, d_weights = one_chunk(*xs)
        d_kernel = None if d_kernel is None else d_kernel + d_kernel_part
        return (loss + part, d_kernel), (stats, d_hidden, d_weights)

    zero = jnp.zeros(kernel.shape, jnp.float32) if with_gradients and of_kernel else None
    (loss, d_kernel), (stats, d_hidden, d_weights) = jax.lax.scan(
        body, (jnp.float32(0.0), zero), (cut(hidden), cut(targets), cut(weights))
    )
    stats = jax.tree.map(join, stats)
    if not with_gradients:
        return loss, stats, None
    return loss, stats, (join(d_hidden), _cast(d_kernel, kernel.dtype), join(d_weights))


def _cast(array: jax.Array | None, dtype: jax.typing.DTypeLike) -> jax.Array | None:
    return None if array is None else array.astype(dtype)


def _counted_pieces(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    counted: jax.Array,
    chunk_tokens: int,
    one_chunk: Callable[..., tuple[jax.Array, TokenStats, Any, Any, Any]],
    with_gradients: bool,
    of_kernel: bool,
) -> tuple[jax.Array, TokenStats, Gradients | None]:
    """Loss, stats and gradients, for the counted positions alone; all others get zeros.

    Counted positions are gathered, piece by piece, in a loop whose trip count depends on the batch. Nothing is
    differentiated through the loop: a piece computes its gradients while its logits exist.
    """
    positions = counted.size
    size = min(_PIECE, chunk_tokens or _PIECE, positions)
    order = jnp.nonzero(counted.reshape(-1), size=positions + size, fill_value=positions)[0]
    number = jnp.sum(counted, dtype=jnp.int32)
    flat = [x.reshape(positions, *x.shape[2:]) for x in (hidden, targets, weights)]
    like = functools.partial(jnp.zeros, (positions,))
    stats = TokenStats(like(jnp.float32), like(bool))
    gradients: Gradients | None = None
    if with_gradients:
        of_hidden = jnp.zeros_like(flat[0])
        gradients = (of_hidden, jnp.zeros(kernel.shape, jnp.float32) if of_kernel else None, like(jnp.float32))

    def add(state: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        piece, (loss, stats, gradients) = state
        places = jax.lax.dynamic_slice_in_dim(order, piece * size, size)
        rows = (jnp.take(x, places, axis=0, mode="fill", fill_value=0)[None] for x in flat)
        part, part_stats, d_hidden, d_kernel, d_weights = one_chunk(*rows, kernel=kernel, with_gradients=with_gradients)

        def put(x: jax.Array, new: jax.Array) -> jax.Array:
            return x.at[places].set(new[0], mode="drop")

        stats = TokenStats(*map(put, stats, part_stats))
        if with_gradients:
            of_hidden, total, of_weights = gradients
            gradients = (
                put(of_hidden, d_hidden),
                None if total is None else total + d_kernel,
                put(of_weights, d_weights),
            )
        return piece + 1, (loss + part, stats, gradients)

    # The constant bound changes nothing; an analysis of the program reads from it how often the loop runs at most.
    most, times = -(-positions // size), -(-number // size)
    _, (loss, stats, gradients) = jax.lax.while_loop(
        lambda state: (state[0] < most) & (state[0] < times), add, (jnp.int32(0), (jnp.float32(0.0), stats, gradients))
    )
    stats = TokenStats(*(x.reshape(counted.shape) for x in stats))
    if gradients is None:
        return loss, stats, None
    d_hidden, d_kernel, d_weights = gradients
    return (
        loss,
        stats,
        (d_hidden.reshape(hidden.shape), _cast(d_kernel, kernel.dtype), d_weights.reshape(counted.shape)),
    )
