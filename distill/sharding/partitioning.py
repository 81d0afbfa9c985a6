"""The device mesh, and the table of rules that map logical axis names to mesh axes."""

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from distill import validation
from distill.sharding import hardware, memory_layout

MESH_AXES = ("data", "fsdp", "model")
# When FSDP-sharded parameters are all-gathered → the stacks that are gathered once per step, before the layers run.
PARAM_GATHERS: Mapping[str, tuple[str, ...]] = {"layer": (), "decoder": ("decoder",), "step": ("encoder", "decoder")}

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

# Batch rows are sharded over `data` and `fsdp`. Wide weight dimensions are sharded over `model`, the other dimension
# over `fsdp` (ZeRO-3).
DEFAULT_RULES: Rules = (
    ("batch", ("data", "fsdp")),
    # Embeddings just after the lookup. Sharding their rows over `data` alone keeps the partitioner from replicating
    # them.
    ("lookup_batch", "data"),
    ("vocab", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("mlp", "model"),
    ("embed", "fsdp"),
    ("kv", None),
    ("length", None),
    # Positions of the residual stream between blocks; see :func:`sequence_parallel`.
    ("residual_length", None),
    ("layers", None),
    ("relpos_buckets", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes. At most one may be -1: that axis takes all remaining devices.

    Attributes:
      data: data parallelism: parameters are replicated, batch rows are sharded.
      fsdp: batch rows are sharded as over ``data``; parameters and optimizer state are sharded too.
      model: tensor parallelism: heads, MLP and vocabulary of each layer are sharded.

    Raises:
      ValueError: a size is 0 or below -1, or more than one size is -1.
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        for axis in MESH_AXES:
            validation.check_range(f"MeshConfig.{axis}", getattr(self, axis), "an integer ≥ 1 or -1")
        if self.sizes.count(-1) > 1:
            raise ValueError(f"at most one mesh axis may have size -1; got {dict(zip(MESH_AXES, self.sizes))}")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The configured ``(data, fsdp, model)``, -1 not resolved."""
        return (self.data, self.fsdp, self.model)

    def shape(self, num_devices: int) -> tuple[int, int, int]:
        """Returns the sizes for ``num_devices`` devices with -1 resolved.

        Raises:
          ValueError: the mesh needs more devices, or the remaining axis does not divide evenly.
        """
        known = math.prod(size for size in self.sizes if size != -1)
        left = num_devices // known
        if left == 0 or (-1 in self.sizes and num_devices % known):
            axes_text = " × ".join(f"{name}={size}" for name, size in zip(MESH_AXES, self.sizes))
            there = f"{num_devices} device{'s' if num_devices != 1 else ''} of {jax.default_backend()!r}"
            remedy = ""
            if num_devices == jax.device_count():  # and not those of a topology that steps are compiled for
                remedy = f"; {hardware.advice(num_devices, jax.default_backend(), jax.devices()[0].device_kind)}"
            raise ValueError(
                f"mesh {axes_text} does not fit: there {'is' if num_devices == 1 else 'are'} {there}{remedy}"
            )
        data, fsdp, model = (left if size == -1 else size for size in self.sizes)
        return data, fsdp, model

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """Builds the mesh over ``devices`` (default: all devices of all processes).

        A mesh smaller than the number of devices leaves the others idle and logs a warning.

        Raises:
          ValueError: the mesh does not fit, or it would leave devices idle and there are several processes.
        """
        everything = list(jax.devices() if devices is None else devices)
        shape = self.shape(len(everything))
        used = math.prod(shape)
        if used == len(everything) and devices is None:
            return arranged(shape, everything)
        if used < len(everything):
            if jax.process_count() > 1:
                raise ValueError(f"mesh {shape} uses {used} of {len(everything)} devices; processes cannot stay idle")
            logging.warning("mesh %s uses %d of %d devices", shape, used, len(everything))
        return Mesh(np.array(everything[:used]).reshape(shape), MESH_AXES)


def arranged(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> Mesh:
    """Arranges all of ``devices`` as a mesh whose axes follow the physical topology where possible.

    A mesh axis may use part of a physical axis, for example 8 × 8 on 4 × 4 × 4 chips.
    """
    return Mesh(mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True), MESH_AXES)


def batch_shards(mesh: Mesh) -> int:
    """Returns the number of shards of the batch dimension: ``data · fsdp``."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch(rows: int, mesh: Mesh, num_microbatches: int = 1) -> None:
    """Raises ValueError unless ``rows`` is divisible by the batch shards times the micro-batches."""
    shards = batch_shards(mesh)
    if rows % (shards * num_microbatches):
        raise ValueError(
            f"BATCH_SIZE (global) = {rows} is not divisible by data × fsdp × micro-batches = "
            f"{mesh.shape['data']} × {mesh.shape['fsdp']} × {num_microbatches} = {shards * num_microbatches}"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows over ``data`` and ``fsdp``, all other dimensions replicated."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def mesh_axes(target: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the mesh axes of a rule (None, one name or several) as a tuple."""
    return () if target is None else (target,) if isinstance(target, str) else tuple(target)


def spec_for(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh, rules: Rules
) -> PartitionSpec:
    """Returns the PartitionSpec of one array. Each logical axis follows the first rule that names it.

    A dimension is replicated if the size of its mesh axis does not divide it (for example the relative bias of 8 heads
    on 16-way ``model``), or if an earlier dimension already uses that mesh axis.

    Args:
      axes: a logical axis name, or None, per dimension.
      shape: the array's shape.
      mesh: the mesh whose axis sizes count.
      rules: logical axis → mesh axis.

    Raises:
      ValueError: a logical axis has no rule, or the number of axes differs from the number of dimensions.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} logical axes {tuple(axes)} for an array of shape {tuple(shape)}")
    table = dict(reversed([(name, target) for name, target in rules]))
    taken: set[str] = set()
    out: list[str | tuple[str, ...] | None] = []
    for name, size in zip(axes, shape):
        if name is not None and name not in table:
            raise ValueError(f"logical axis {name!r} has no rule; there are rules for {sorted(table)}")
        target = table.get(name) if name is not None else None
        names = mesh_axes(target)
        ways = math.prod(mesh.shape[n] for n in names)
        if not names or ways == 1 or size % ways or taken & set(names):
            out.append(None)
            continue
        taken |= set(names)
        out.append(target)
    return PartitionSpec(*out)


def sequence_parallel(rules: Rules) -> Rules:
    """Returns ``rules`` with positions between blocks sharded over ``model``.

    This is sequence parallelism (Korthikanti et al. 2022, §4.2). Norms and dropout are then computed on 1/``model`` of
    the positions per device. The output of a block is reduce-scattered and its input is all-gathered, which together
    send as many bytes as one all-reduce (arXiv 2205.05198).
    """
    return [("residual_length", "model"), *(rule for rule in rules if rule[0] != "residual_length")]


def axes_of(name: str) -> tuple[str, ...]:
    """The axes of the current mesh that the current rules map a logical axis to; empty without a mesh or a rule."""
    names = mesh_axes(dict(reversed(list(nn.get_logical_axis_rules()))).get(name))
    return tuple(axis for axis in names if axis in jax.sharding.get_abstract_mesh().axis_names)


def platform() -> str:
    """Returns the platform of the mesh in use, or of JAX's default devices if there is no mesh."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if device is None:
        return jax.default_backend()
    kind = device.device_kind.lower()  # "cpu", "TPU v5e", "NVIDIA H100 80GB HBM3": all that JAX before 0.10.1 gives
    by_kind = kind if kind == "cpu" else "tpu" if kind.startswith("tpu") else "gpu"
    return getattr(device, "platform", by_kind)


def device_kind() -> str:
    """Returns the kind of the devices of the mesh in use, such as ``TPU v4``, or of JAX's default devices."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return jax.devices()[0].device_kind if device is None else device.device_kind


def why_uneven(batch: int, num_heads: int) -> str | None:
    """Returns why the current mesh cannot shard rows and heads evenly, for a kernel that needs it, or None if it can.

    Args:
      batch: rows of the global batch.
      num_heads: heads over all devices.
    """
    if num_heads % ways("heads") or batch % ways("batch"):
        return f"{batch} rows or {num_heads} heads cannot be sharded evenly over the mesh"
    return None


def is_one_cpu() -> bool:
    """Whether the program runs on one CPU device: no mesh or a mesh of one device, on the platform ``cpu``."""
    mesh = jax.sharding.get_abstract_mesh()
    return platform() == "cpu" and (mesh.empty or mesh.size == 1)


def ways(name: str) -> int:
    """Returns the number of shards of a logical axis under the current mesh and rules."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[axis] for axis in axes_of(name))


def gathered(param: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """All-gathers ``param`` over ``fsdp``, under jit; otherwise sharded and laid out as by :func:`layers_outermost`."""
    return _outermost(param, axes, frozenset({"fsdp"}))


def layers_outermost(param: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Constrains ``param`` to the current mesh and rules, under jit, with a stack's layer axis outermost in TPU memory.

    Without this, the compiler interleaves the layers in memory and reads the tiles of all layers to get those of one.
    Without rules, which give the sharding, ``param`` is returned unchanged.
    """
    return _outermost(param, axes, frozenset()) if nn.get_logical_axis_rules() else param


def _outermost(param: jax.Array, axes: Sequence[str | None], without: frozenset[str]) -> jax.Array:
    place = functools.partial(_constrained, axes=axes, without=without)
    placed = place(param)
    return place(memory_layout.outermost(placed, list(axes).index("layers"))) if "layers" in axes else placed


def whole_copies(params: Any, logical_axes: Any, dtype: str | None) -> Any:
    """Casts FSDP-sharded ``params`` to ``dtype`` (None: not) and all-gathers them once, under jit; for repeated reads."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return params

    def copy(param: jax.Array, axes: Sequence[str | None]) -> jax.Array:
        spec = spec_for(axes, param.shape, mesh, nn.get_logical_axis_rules())
        is_split = any("fsdp" in mesh_axes(target) for target in spec)
        return gathered(param if dtype is None else param.astype(dtype), axes) if is_split else param

    return jax.tree.map(copy, params, logical_axes)


def split(param: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Constrains ``param``, or its gradient, to the current mesh and rules: the inverse of :func:`gathered`."""
    return _constrained(param, axes, frozenset())


def _constrained(param: jax.Array, axes: Sequence[str | None], without: frozenset[str]) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return param
    spec = [
        tuple(axis for axis in mesh_axes(target) if axis not in without) or None
        for target in spec_for(axes, param.shape, mesh, nn.get_logical_axis_rules())
    ]
    return jax.lax.with_sharding_constraint(param, PartitionSpec(*spec))


def param_shardings(params: Any, logical_axes: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """Returns a tree of NamedShardings for ``params`` (arrays or ShapeDtypeStructs) from its tree of logical axes."""
    return jax.tree.map(lambda p, axes: NamedSharding(mesh, spec_for(axes, p.shape, mesh, rules)), params, logical_axes)


def optimizer_shardings(
    transform: optax.GradientTransformation, opt_state: Any, params: Any, shardings: Any, mesh: Mesh
) -> Any:
    """Returns the shardings of an optimizer state.

    A moment of a parameter's shape is sharded as the parameter. A factored moment, which lacks one dimension, is
    sharded as the parameter's other dimensions. Everything else is replicated.

    Args:
      transform: the optimizer that made ``opt_state``.
      opt_state: the state, or its ShapeDtypeStructs.
      params: the parameters, or their ShapeDtypeStructs.
      shardings: the NamedShardings of the parameters.
      mesh: the mesh on which everything else is replicated.
    """

    def place(
        moment: jax.Array | jax.ShapeDtypeStruct, param: jax.Array | jax.ShapeDtypeStruct, sharding: NamedSharding
    ) -> NamedSharding:
        spec = tuple(sharding.spec) + (None,) * (len(param.shape) - len(sharding.spec))
        if moment.shape == param.shape:
            return sharding
        for gone in reversed(range(len(param.shape))):
            if moment.shape == param.shape[:gone] + param.shape[gone + 1 :]:
                return NamedSharding(mesh, PartitionSpec(*(spec[:gone] + spec[gone + 1 :])))
        return replicated(mesh)

    return optax.tree_utils.tree_map_params(
        transform, place, opt_state, params, shardings, transform_non_params=lambda _: replicated(mesh)
    )


def to_global(arrays: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Assembles global arrays, sharded by batch row, from this process's rows of the global batch: :func:`local_rows`."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in arrays.items()}


def local_rows(rows: int, mesh: Mesh) -> np.ndarray:
    """Returns the rows of a global batch of ``rows`` rows on this process's devices: int64 [local], in ascending order.

    They need not be adjacent: a host of a TPU slice has a block of chips, and the mesh may go through the slice row by row.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index[0]] for index in indices if index is not None]))
