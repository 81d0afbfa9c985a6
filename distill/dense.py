"""Products with parameters, whose gradients devices sum over their rows in one reduce-scatter each, or one all-reduce.

A kernel's gradient is a sum over the rows of the batch, which lie over several devices. How their sums meet is written
out here, because the TPU compiler, left to itself, chooses by how a gradient happens to lie in memory: where the dimension
that is split over ``fsdp`` is the innermost, it all-reduces the whole gradient, which sends twice as much, and where a
kernel is large it may rotate pieces among the devices, reading and writing the whole gradient once a piece. (The logits are
not made here: `distill.losses` has its own.)
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from distill import partitioning
from distill.array_types import AnyArray
from distill.layouts import row_major

# Values under this name are products with parameters: what ``remat_policy="minimal"`` keeps for the backward pass. (The
# policies of JAX that look for products do not look into functions with gradients of their own.)
PRODUCT = "product"

_fan_in_truncated = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def parameter(
    module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...], axes: tuple[str, ...]
) -> AnyArray:
    """A float32 parameter of ``module`` with a logical axis name for each dimension."""
    return module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)  # type: ignore[return-value]


class Dense(nn.Module):
    """``x @ kernel`` over the last axis. The kernel is float32 [in, features]; the product is in ``dtype``."""

    features: int
    kernel_axes: tuple[str, str]
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer = _fan_in_truncated

    @nn.compact
    def matrix(self, inputs: int) -> Float[AnyArray, "inputs features"]:
        """The kernel in ``dtype``."""
        shape = (inputs, self.features)
        return parameter(self, "kernel", self.kernel_init, shape, self.kernel_axes).astype(self.dtype)

    def __call__(
        self, x: Float[Array, "batch length inputs"], out_dtype: jax.typing.DTypeLike | None = None
    ) -> Float[Array, "batch length features"]:
        """Returns the product in ``out_dtype`` (``dtype`` where None), accumulated at least that precisely."""
        kernel, x = self.matrix(x.shape[-1]), x.astype(self.dtype)
        if out_dtype is not None:
            return jnp.einsum("bld,df->blf", x, kernel, preferred_element_type=out_dtype)
        return checkpoint_name(product("bld,df->blf", self.kernel_axes, x, (kernel,)), PRODUCT)


def jointly(
    denses: Sequence[Dense],
    x: Float[Array, "batch length inputs"] | Float[Array, "shards batch length inputs"],
    *,
    training: bool,
) -> Float[Array, "denses batch length features"]:
    """What ``denses`` of one width make of ``x``.

    In ``training`` by one product, which reads ``x`` once and whose gradient is one sum; ``x`` may then be copies by shard
    of the features: :func:`copies_by_shard`. Otherwise one by one, because answers are made from few rows, of which reading
    the kernels is most of the work: they are then read where they lie, and not stacked first.
    """
    if not training:
        return jnp.stack([dense(x) for dense in denses])
    kernels = [dense.matrix(x.shape[-1]) for dense in denses]
    x = x.astype(kernels[0].dtype)
    inputs, features = denses[0].kernel_axes
    if x.ndim == 3:
        out = product("bld,ndf->nblf", (None, inputs, features), x, tuple(kernels))
    else:
        parts = tuple(kernel.reshape(kernel.shape[0], x.shape[0], -1) for kernel in kernels)
        out = product("sbld,ndsf->nblsf", (None, inputs, features, None), x, parts)
        out = out.reshape(*out.shape[:3], -1)
    # Left alone, the TPU compiler may lay features before positions, and copy to and fro.
    axes = (None, "batch", "length", features)
    out = nn.with_logical_constraint(row_major(nn.with_logical_constraint(out, axes)), axes)
    return checkpoint_name(out, PRODUCT)


def copies_by_shard(
    x: Float[Array, "batch length embed"], features: int
) -> Float[Array, "batch length embed"] | Float[Array, "shards batch length embed"]:
    """An equal copy of ``x`` for every shard of the heads; ``x`` itself where the mesh does not cut ``features`` of them.

    For what many layers read: each shard's gradient is then summed over the layers before the shards' sums meet, once,
    where the compiler would let every layer's meet.
    """
    shards = partitioning.ways("joined_kv")
    if shards == 1 or features % shards:
        return x
    copies = jnp.broadcast_to(x, (shards, *x.shape))
    return nn.with_logical_constraint(copies, ("joined_kv", "batch", "length", "embed"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(
    subscripts: str, axes: tuple[str | None, ...], x: Float[Array, "..."], kernels: tuple[Float[Array, "..."], ...]
) -> Float[Array, "..."]:
    """``jnp.einsum(subscripts, x, kernel)``, the kernel's gradient being summed over rows by :func:`sum_over_rows`.

    Args:
      subscripts: as ``"bld,df->blf"``, with a ``b`` for the rows of ``x``.
      axes: logical axes of the kernel.
      x: of the dtype of the kernels, which is the result's and the gradients', too.
      kernels: the kernel alone; or, where ``n`` is its first subscript, those that make it when they are stacked. The
        backward pass keeps them, and not the stack.
    """
    del axes
    return jnp.einsum(subscripts, x, _kernel(subscripts, kernels))


def _is_stacked(subscripts):
    return subscripts.split(",")[1].startswith("n")


def _kernel(subscripts, kernels):
    return jnp.stack(kernels) if _is_stacked(subscripts) else kernels[0]


def _forward(subscripts, axes, x, kernels):
    return product(subscripts, axes, x, kernels), (x, kernels)


def _backward(subscripts, axes, inputs, d_out):
    x, kernels = inputs
    kernel = _kernel(subscripts, kernels)
    of_x, of_kernel, of_out = subscripts.replace("->", ",").split(",")
    d_x = jnp.einsum(f"{of_out},{of_kernel}->{of_x}", d_out, kernel)
    d_kernel = sum_over_rows(f"{of_x},{of_out}->{of_kernel}", axes, x, d_out)
    return d_x, tuple(d_kernel) if _is_stacked(subscripts) else (d_kernel,)


product.defvjp(_forward, _backward)


def sum_over_rows(
    subscripts: str, axes: Sequence[str | None], left: Float[Array, "..."], right: Float[Array, "..."]
) -> Float[Array, "..."]:
    """``jnp.einsum(subscripts, left, right)``, a sum over the batch's rows, laid over the mesh as a parameter is.

    Each device sums over its own rows. Over mesh axes on which both the rows and the result lie, the sums meet in a
    reduce-scatter, over those on which only the rows lie in an all-reduce, all in the dtype of the arguments.

    Args:
      subscripts: as ``"bld,blf->df"``, with a ``b`` for the rows of both arguments.
      axes: logical axes of the result.
      left, right: rows by the logical axis ``batch``; what they share with the result lies as it does there, but whole over
        the axes of the rows.
    """
    of_left, of_right, of_out = subscripts.replace("->", ",").split(",")
    batch = partitioning.axes_of("batch")
    if partitioning.ways("batch") == 1 or left.shape[of_left.index("b")] % partitioning.ways("batch"):
        return jnp.einsum(subscripts, left, right)
    mesh = jax.sharding.get_abstract_mesh()
    sizes = dict(zip(of_left + of_right, left.shape + right.shape))
    shape = [sizes[letter] for letter in of_out]
    spec = partitioning.spec_for(axes, shape, mesh, nn.get_logical_axis_rules())
    lies = {letter: partitioning.mesh_axes(target) for letter, target in zip(of_out, spec)}
    cut = [axis for axis in batch if mesh.shape[axis] > 1]
    scattered = {letter: tuple(axis for axis in names if axis in cut) for letter, names in lies.items()}
    scattered = {letter: names for letter, names in scattered.items() if names}
    summed = tuple(axis for axis in cut if not any(axis in names for names in scattered.values()))
    held = {letter: tuple(axis for axis in names if axis not in batch) for letter, names in lies.items()}
    held["b"] = batch
    # A TPU scatters along any dimension but the innermost.
    whole = [letter for letter in of_out if letter not in scattered]
    order = "".join([*whole[:-1], *scattered, *whole[-1:]])

    def local(left, right):
        total = jnp.einsum(f"{of_left},{of_right}->{order}", left, right)
        total = row_major(total) if scattered else total
        for letter, names in scattered.items():
            total = jax.lax.psum_scatter(total, names, scatter_dimension=order.index(letter), tiled=True)
        total = jax.lax.psum(total, summed) if summed else total
        return jnp.transpose(total, [order.index(letter) for letter in of_out])

    def rows(letters: str) -> PartitionSpec:
        return PartitionSpec(*(held.get(letter) or None for letter in letters))

    out_specs = PartitionSpec(*((*held.get(letter, ()), *scattered.get(letter, ())) or None for letter in of_out))
    run = jax.shard_map(local, in_specs=(rows(of_left), rows(of_right)), out_specs=out_specs, check_vma=False)
    return run(left, right)
