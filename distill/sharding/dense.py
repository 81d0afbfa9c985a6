"""Dense layers whose weight gradients are reduced across devices in one reduce-scatter, or one all-reduce.

The gradient of a kernel is a sum over the rows of the batch, which are sharded over several devices. The reduction
across devices is written out here, because the TPU compiler chooses it by the layout that the gradient happens to have.
Where the dimension sharded over ``fsdp`` is the innermost one, it all-reduces the whole gradient, which sends twice as
much. For a large kernel it may pass partial sums around the devices in a ring, reading and writing the whole gradient
per piece. The logits have their own implementation in :mod:`distill.sharding.cross_entropy`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import CustomVJPPrimal
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from distill.array_types import AnyArray
from distill.sharding import partitioning
from distill.sharding.memory_layout import row_major

# Checkpoint name of the outputs of dense layers: ``remat_policy="minimal"`` saves these for the backward pass. JAX's
# own policies that save matmul outputs do not see inside functions with a custom VJP.
PRODUCT = "product"
# Names of a low-rank adapter's two matrices, beside the "kernel" that they adapt.
LORA_A, LORA_B = "lora_a", "lora_b"
# Name of the scales of an int8 weight, beside that weight.
INT8_SCALE = "int8_scale"
# Inputs of fewer elements stay in the processor's cache, where strided reads are fast.
_SMALL = 1 << 16

_fan_in_truncated = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def parameter(
    module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...], axes: tuple[str, ...]
) -> AnyArray:
    """Creates a float32 parameter of ``module`` with a logical axis name per dimension."""
    return module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)  # type: ignore[return-value]


class Adapter(NamedTuple):
    """The low-rank adapter of a kernel: ``x @ kernel`` becomes ``x @ kernel + x @ a @ b``.

    From Hu et al. 2021, arXiv 2106.09685.

    Attributes:
      a: [inputs, rank], in the compute dtype.
      b: [rank, features], in the compute dtype, already multiplied by α / rank.
    """

    a: Float[AnyArray, "inputs rank"]
    b: Float[AnyArray, "rank features"]


class Dense(nn.Module):
    """``x @ kernel`` over the last axis. The kernel is float32 [inputs, features] and is cast to ``dtype``.

    If the parameters hold ``lora_a`` and ``lora_b`` beside ``kernel``, their product is added: see :class:`Adapter`. No
    initialiser makes them; :mod:`distill.model.lora` adds them to a tree of parameters. If they hold ``int8_scale``, the
    kernel is int8 and its columns are multiplied by these scales: see :mod:`distill.model.int8`.

    Attributes:
      features: size of the output's last axis.
      kernel_axes: logical axis names of the kernel's two dimensions.
      dtype: dtype of the matmul's inputs, and of its output unless the call names another.
      kernel_init: initializer of the kernel.
    """

    features: int
    kernel_axes: tuple[str, str]
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer = _fan_in_truncated

    @nn.compact
    def matrix(self, inputs: int) -> Float[AnyArray, "inputs features"]:
        """Returns the kernel cast to ``dtype``, for inputs whose last axis has size ``inputs``; int8 without its scale."""
        shape = (inputs, self.features)
        return parameter(self, "kernel", self.kernel_init, shape, self.kernel_axes).astype(self.dtype)

    def int8_scale(self) -> Float[AnyArray, "1 features"] | None:
        """Returns the float32 scales of an int8 kernel's columns, or None if the kernel is not int8."""
        return self.get_variable("params", INT8_SCALE) if self.has_variable("params", INT8_SCALE) else None

    def adapter(self) -> Adapter | None:
        """Returns the kernel's adapter cast to ``dtype``, or None if the parameters hold none."""
        if not self.has_variable("params", LORA_A):
            return None
        return Adapter(*(self.get_variable("params", name).astype(self.dtype) for name in (LORA_A, LORA_B)))

    def __call__(
        self, x: Float[Array, "batch length inputs"], out_dtype: jax.typing.DTypeLike | None = None
    ) -> Float[Array, "batch length features"]:
        """Returns the product in ``out_dtype`` (None: ``dtype``), accumulated in at least that precision."""
        if out_dtype is not None:
            kernel, x = self.matrix(x.shape[-1]), x.astype(self.dtype)
            out = _scaled_product(x, kernel, self.int8_scale(), out_dtype)
            return _adapted(out, x, self.adapter())
        return self.of_written(written(x.astype(self.dtype)))

    def of_written(self, x: Float[Array, "batch length inputs"]) -> Float[Array, "batch length features"]:
        """Returns the product of an ``x`` that has passed through :func:`written`, in ``dtype``."""
        kernel, scale = self.matrix(x.shape[-1]), self.int8_scale()
        if scale is None:
            out = product("bld,df->blf", self.kernel_axes, x, (kernel,))
        else:
            out = _scaled_product(x, kernel, scale, self.dtype)
        return checkpoint_name(_adapted(out, x, self.adapter()), PRODUCT)


def _scaled_product(
    x: jax.Array, kernel: AnyArray, scale: AnyArray | None, out_dtype: jax.typing.DTypeLike
) -> jax.Array:
    """``x @ kernel`` in ``out_dtype``; with a scale, which float32 sums are multiplied by."""
    if scale is None:
        return jnp.einsum("bld,df->blf", x, kernel, preferred_element_type=out_dtype)
    return (jnp.einsum("bld,df->blf", x, kernel, preferred_element_type=jnp.float32) * scale[None]).astype(out_dtype)


def _adapted(out: jax.Array, x: jax.Array, adapter: Adapter | None) -> jax.Array:
    """``out`` plus the adapter's product, in the dtype of ``out``."""
    if adapter is None:
        return out
    inner = checkpoint_name(jnp.einsum("bld,dr->blr", x, adapter.a), PRODUCT)
    return out + jnp.einsum("blr,rf->blf", inner, adapter.b, preferred_element_type=out.dtype)


def jointly(
    denses: Sequence[Dense],
    x: Float[Array, "batch length inputs"] | Float[Array, "shards batch length inputs"],
    *,
    training: bool,
) -> Float[Array, "denses batch length features"] | tuple[Float[Array, "batch length features"], ...]:
    """Applies ``denses``, all of the same width, to ``x``; returns the outputs stacked, or as a tuple.

    On TPUs, in ``training``, this is one matmul with the stacked kernels. It reads ``x`` once, and the gradient of ``x`` is
    one sum. ``x`` may then hold a copy per shard of the features: :func:`copies_by_shard`. Otherwise each layer is a
    matmul of its kernel: GPUs and CPUs would copy the kernels into the stack and transpose its output, and decoding has
    few rows, so reading the kernels dominates.

    Raises:
      ValueError: int8 kernels in training.
    """
    if training and any(dense.int8_scale() is not None for dense in denses):
        raise ValueError("int8 weights are for decoding; train with the float32 parameters that they were made from")
    if not training or (x.ndim == 3 and partitioning.platform() != "tpu"):
        x = written(x.astype(denses[0].dtype))
        return tuple(dense.of_written(x) for dense in denses)
    kernels = [dense.matrix(x.shape[-1]) for dense in denses]
    x = x.astype(kernels[0].dtype)
    inputs, features = denses[0].kernel_axes
    if x.ndim == 3:
        out = product("bld,ndf->nblf", (None, inputs, features), x, tuple(kernels))
    else:
        parts = tuple(kernel.reshape(kernel.shape[0], x.shape[0], -1) for kernel in kernels)
        out = product("sbld,ndsf->nblsf", (None, inputs, features, None), x, parts)
        out = out.reshape(*out.shape[:3], -1)
    adapters = [dense.adapter() for dense in denses]
    if any(adapter is not None for adapter in adapters):
        out = out + _jointly_adapted(adapters, x)
    # Without this constraint, the TPU compiler may lay out features before positions and insert transposing copies.
    axes = (None, "batch", "length", features)
    out = nn.with_logical_constraint(row_major(nn.with_logical_constraint(out, axes)), axes)
    return checkpoint_name(out, PRODUCT)


def _jointly_adapted(adapters: Sequence[Adapter | None], x: jax.Array) -> jax.Array:
    """The stacked products [denses, batch, length, features] of the adapters; zero where there is none."""
    like = next(adapter for adapter in adapters if adapter is not None)
    filled = [Adapter(*map(jnp.zeros_like, like)) if adapter is None else adapter for adapter in adapters]
    a, b = (jnp.stack(matrices) for matrices in zip(*filled))
    if x.ndim == 3:
        return jnp.einsum("nblr,nrf->nblf", checkpoint_name(jnp.einsum("bld,ndr->nblr", x, a), PRODUCT), b)
    inner = checkpoint_name(jnp.einsum("sbld,ndr->nsblr", x, a), PRODUCT)
    inner = nn.with_logical_constraint(inner, (None, "joined_kv", "batch", "length", None))
    out = jnp.einsum("nsblr,nrsf->nblsf", inner, b.reshape(*b.shape[:2], x.shape[0], -1))
    return out.reshape(*out.shape[:3], -1)


def copies_by_shard(
    x: Float[Array, "batch length embed"], features: int
) -> Float[Array, "batch length embed"] | Float[Array, "shards batch length embed"]:
    """Returns a copy of ``x`` per shard of the heads, or ``x`` itself if ``features`` is not sharded.

    Use it for an input of many layers. The gradient of each copy is summed over the layers on its own shard, and one
    all-reduce then sums the copies. The compiler would otherwise all-reduce once per layer.
    """
    shards = partitioning.ways("joined_kv")
    if shards == 1 or features % shards:
        return x
    copies = jnp.broadcast_to(x, (shards, *x.shape))
    return nn.with_logical_constraint(copies, ("joined_kv", "batch", "length", "embed"))


def written(x: Float[Array, "batch length inputs"]) -> Float[Array, "batch length inputs"]:
    """Returns ``x``. If it is differentiated on one CPU, ``x`` is written to memory before its first use.

    The gradient of a kernel needs the transpose of the layer's input. XLA's CPU compiler computes the operations before
    the layer a second time, in transposed order, and the strided reads take as long as the matmul itself. It removes
    ``jax.lax.optimization_barrier`` before it fuses operations. It does not fuse across a loop, so ``x`` passes through
    a loop that never runs, and the transpose is a plain copy. A batch that is sharded is left to the compiler.
    """
    return _written(x) if partitioning.is_one_cpu() and x.size >= _SMALL else x


@jax.custom_vjp
def _written(x: jax.Array) -> jax.Array:
    return x


def _through_a_loop(x: jax.Array) -> tuple[jax.Array, None]:
    return stored(x), None


def stored(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns ``x``, which XLA's CPU compiler writes to memory: it computes it once, however many operations read it."""

    def never(x: jax.Array) -> jax.Array:
        one = x[(0,) * x.ndim].astype(jnp.float32)
        return one > one + 1.0  # False for every number, nan included; the compiler does not know

    return jax.lax.while_loop(never, jnp.negative, x)


_written.defvjp(_through_a_loop, lambda _, d_x: (d_x,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(
    subscripts: str, axes: tuple[str | None, ...], x: Float[Array, "..."], kernels: tuple[Float[AnyArray, "..."], ...]
) -> Float[Array, "..."]:
    """Returns ``jnp.einsum(subscripts, x, kernel)``. Its VJP sums the kernel's gradient by :func:`sum_over_rows`.

    If no kernel is differentiated, because all are frozen, their gradient is not computed and ``x`` is not saved for it.

    Args:
      subscripts: for example ``"bld,df->blf"``; ``b`` names the rows of ``x``.
      axes: logical axes of the kernel.
      x: in the dtype of the kernels, which is also the dtype of the result and of the gradients.
      kernels: one kernel; or, if the kernel's first subscript is ``n``, the kernels that are stacked along ``n``. The
        backward pass saves the separate kernels, not the stack.
    """
    del axes
    return jnp.einsum(subscripts, x, _kernel(subscripts, kernels))


def _is_stacked(subscripts: str) -> bool:
    return subscripts.split(",")[1].startswith("n")


def _kernel(subscripts: str, kernels: tuple[AnyArray, ...]) -> AnyArray:
    return jnp.stack(kernels) if _is_stacked(subscripts) else kernels[0]


def _forward(
    subscripts: str, axes: tuple[str | None, ...], x: CustomVJPPrimal, kernels: tuple[CustomVJPPrimal, ...]
) -> tuple[jax.Array, tuple[jax.Array | None, tuple[AnyArray, ...]]]:
    values = tuple(kernel.value for kernel in kernels)
    is_trained = any(kernel.perturbed for kernel in kernels)
    return product(subscripts, axes, x.value, values), (x.value if is_trained else None, values)


def _backward(
    subscripts: str,
    axes: tuple[str | None, ...],
    inputs: tuple[jax.Array | None, tuple[AnyArray, ...]],
    d_out: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...] | None]:
    x, kernels = inputs
    kernel = _kernel(subscripts, kernels)
    of_x, of_kernel, of_out = subscripts.replace("->", ",").split(",")
    d_x = jnp.einsum(f"{of_out},{of_kernel}->{of_x}", d_out, kernel)
    if x is None:
        return d_x, None
    d_kernel = sum_over_rows(f"{of_x},{of_out}->{of_kernel}", axes, x, d_out)
    return d_x, tuple(d_kernel) if _is_stacked(subscripts) else (d_kernel,)


product.defvjp(_forward, _backward, symbolic_zeros=True)


def sum_over_rows(
    subscripts: str, axes: Sequence[str | None], left: Float[Array, "..."], right: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Returns ``jnp.einsum(subscripts, left, right)``, a sum over batch rows, sharded as a parameter with ``axes``.

    Each device sums over its own rows. The partial sums are reduce-scattered over mesh axes that shard both the rows
    and the result, and all-reduced over mesh axes that shard the rows only. The dtype stays that of the arguments.

    Args:
      subscripts: for example ``"bld,blf->df"``; ``b`` names the rows of both arguments.
      axes: logical axes of the result.
      left, right: rows sharded by the logical axis ``batch``. Dimensions shared with the result are sharded as in the
        result, but replicated over the mesh axes of the rows.
    """
    of_left, of_right, of_out = subscripts.replace("->", ",").split(",")
    batch = partitioning.axes_of("batch")
    if partitioning.ways("batch") == 1 or left.shape[of_left.index("b")] % partitioning.ways("batch"):
        return jnp.einsum(subscripts, left, right)
    mesh = jax.sharding.get_abstract_mesh()
    sizes = dict(zip(of_left + of_right, left.shape + right.shape))
    shape = [sizes[letter] for letter in of_out]
    spec = partitioning.spec_for(axes, shape, mesh, nn.get_logical_axis_rules())
    mesh_axes_of = {letter: partitioning.mesh_axes(target) for letter, target in zip(of_out, spec)}
    cut = [axis for axis in batch if mesh.shape[axis] > 1]
    scattered = {letter: tuple(axis for axis in names if axis in cut) for letter, names in mesh_axes_of.items()}
    scattered = {letter: names for letter, names in scattered.items() if names}
    summed = tuple(axis for axis in cut if not any(axis in names for names in scattered.values()))
    held = {letter: tuple(axis for axis in names if axis not in batch) for letter, names in mesh_axes_of.items()}
    held["b"] = batch
    # On TPUs, a reduce-scatter may use any dimension except the innermost.
    whole = [letter for letter in of_out if letter not in scattered]
    order = "".join([*whole[:-1], *scattered, *whole[-1:]])

    def local(left: jax.Array, right: jax.Array) -> jax.Array:
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
