"""A mesh of devices, and one table of rules from logical axis names to mesh axes."""

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

from distill import hardware, layouts

MESH_AXES = ("data", "fsdp", "model")
# How layers come by parameters that lie split over `fsdp`, and whose are then gathered before the layers, once a step.
PARAM_GATHERS: Mapping[str, tuple[str, ...]] = {"layer": (), "decoder": ("decoder",), "step": ("encoder", "decoder")}

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

# Batch rows go over `data` and `fsdp`; wide weight dimensions over `model`, the other dimension over `fsdp` (ZeRO-3).
DEFAULT_RULES: Rules = (
    ("batch", ("data", "fsdp")),
    # The looked-up embeddings, before they meet the mesh: rows over `data` alone spare the partitioner a full copy.
    ("lookup_batch", "data"),
    ("vocab", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("mlp", "model"),
    ("embed", "fsdp"),
    ("kv", None),
    ("length", None),
    # Positions of the stream between the blocks; see :func:`sequence_parallel`.
    ("residual_length", None),
    ("layers", None),
    ("relpos_buckets", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 for one of them means "the devices that are left".

    Attributes:
      data: copies of the model, each with rows of its own.
      fsdp: like ``data``, with parameters and optimizer state split over it.
      model: splits heads, MLP and vocabulary within a layer (tensor parallelism).
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1

    def __post_init__(self):
        sizes = self.sizes
        if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"mesh axes must be ≥ 1, one of them may be -1; got {dict(zip(MESH_AXES, sizes))}")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """``(data, fsdp, model)`` as given."""
        return (self.data, self.fsdp, self.model)

    def shape(self, num_devices: int) -> tuple[int, int, int]:
        """The sizes on ``num_devices`` devices, -1 resolved. Raises ValueError if they do not fit."""
        known = math.prod(size for size in self.sizes if size != -1)
        left = num_devices // known
        if left == 0 or (-1 in self.sizes and num_devices % known):
            asked = " × ".join(f"{name}={size}" for name, size in zip(MESH_AXES, self.sizes))
            there = f"{num_devices} device{'s' if num_devices != 1 else ''} of {jax.default_backend()!r}"
            remedy = ""
            if num_devices == jax.device_count():  # and not those of a topology that steps are compiled for
                remedy = f"; {hardware.advice(num_devices, jax.default_backend(), jax.devices()[0].device_kind)}"
            raise ValueError(f"mesh {asked} does not fit: there {'is' if num_devices == 1 else 'are'} {there}{remedy}")
        data, fsdp, model = (left if size == -1 else size for size in self.sizes)
        return data, fsdp, model

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """The mesh over ``devices`` (default: all). A mesh smaller than that leaves devices idle, with a warning."""
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
    """All of ``devices`` as a mesh, neighbours in the slice being neighbours on its axes where that can be.

    An axis may take a part of a physical axis of the slice: 8 × 8 on 4 × 4 × 4 chips, say.
    """
    return Mesh(mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True), MESH_AXES)


def batch_shards(mesh: Mesh) -> int:
    """The number of pieces the batch's rows are cut into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch(rows: int, mesh: Mesh, num_microbatches: int = 1) -> None:
    """Raises ValueError unless ``rows`` can be cut over the mesh and into micro-batches."""
    shards = batch_shards(mesh)
    if rows % (shards * num_microbatches):
        raise ValueError(
            f"BATCH_SIZE (global) = {rows} is not divisible by data × fsdp × micro-batches = "
            f"{mesh.shape['data']} × {mesh.shape['fsdp']} × {num_microbatches} = {shards * num_microbatches}"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over ``data`` and ``fsdp``, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def mesh_axes(target: str | Sequence[str] | None) -> tuple[str, ...]:
    """A rule's right-hand side as a tuple."""
    return () if target is None else (target,) if isinstance(target, str) else tuple(target)


def spec_for(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh, rules: Rules
) -> PartitionSpec:
    """The PartitionSpec of one array: each logical axis by the first rule that names it.

    A dimension that its mesh axis does not divide stays whole (8 heads' relative bias on 16-way ``model``, say), and a
    mesh axis is used once.

    Raises:
      ValueError: an axis without a rule, or another number of axes than dimensions.
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
    """``rules``, with positions between the blocks over ``model`` (sequence parallelism, Korthikanti et al. 2022, §4.2).

    What lies there, the norms and the dropout, is then split over all devices; a block's output is summed into pieces and
    its input gathered from them, which sends what summing it whole would (arXiv 2205.05198).
    """
    return [("residual_length", "model"), *(rule for rule in rules if rule[0] != "residual_length")]


def axes_of(name: str) -> tuple[str, ...]:
    """The axes of the current mesh over which the current rules lay a logical axis; none without a mesh or a rule."""
    names = mesh_axes(dict(reversed(list(nn.get_logical_axis_rules()))).get(name))
    return tuple(axis for axis in names if axis in jax.sharding.get_abstract_mesh().axis_names)


def ways(name: str) -> int:
    """How many pieces the current mesh and rules cut a logical axis into."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[axis] for axis in axes_of(name))


def gathered(param: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """A copy of ``param`` to read from, under jit: whole over ``fsdp``, otherwise as :func:`layers_outermost` lays it."""
    return _outermost(param, axes, frozenset({"fsdp"}))


def layers_outermost(param: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """``param`` as the current mesh and rules lay it, under jit, a stack's layers each in one piece in a TPU's memory.

    The compiler would leave every layer's rows apart, and read all layers' tiles for one's. Without rules, which say how
    it lies over the mesh, it is left alone.
    """
    return _outermost(param, axes, frozenset()) if nn.get_logical_axis_rules() else param


def _outermost(param, axes, without: frozenset[str]):
    place = functools.partial(_constrained, axes=axes, without=without)
    placed = place(param)
    return place(layouts.outermost(placed, list(axes).index("layers"))) if "layers" in axes else placed


def whole_copies(params: Any, logical_axes: Any, dtype: str) -> Any:
    """``params`` to read from again and again under jit: what lies over ``fsdp`` is gathered, once, as ``dtype``."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return params

    def copy(param, axes):
        spec = spec_for(axes, param.shape, mesh, nn.get_logical_axis_rules())
        is_split = any("fsdp" in mesh_axes(target) for target in spec)
        return gathered(param.astype(dtype), axes) if is_split else param

    return jax.tree.map(copy, params, logical_axes)


def split(param: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """``param`` as the current mesh and rules lay it: what :func:`gathered` made whole, or its gradient, split again."""
    return _constrained(param, axes, frozenset())


def _constrained(param, axes, without: frozenset[str]):
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return param
    spec = [
        tuple(axis for axis in mesh_axes(target) if axis not in without) or None
        for target in spec_for(axes, param.shape, mesh, nn.get_logical_axis_rules())
    ]
    return jax.lax.with_sharding_constraint(param, PartitionSpec(*spec))


def param_shardings(params: Any, logical_axes: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """A tree of NamedShardings like ``params`` (arrays or ShapeDtypeStructs), from its tree of logical axes."""
    return jax.tree.map(lambda p, axes: NamedSharding(mesh, spec_for(axes, p.shape, mesh, rules)), params, logical_axes)


def optimizer_shardings(
    transform: optax.GradientTransformation, opt_state: Any, params: Any, shardings: Any, mesh: Mesh
) -> Any:
    """Shardings of an optimizer state: moments lie as their parameters do, factored moments as what is left of them.

    Args:
      transform: the optimizer that made ``opt_state``.
      opt_state: the state or its shapes.
      params: the parameters or their shapes.
      shardings: the parameters' NamedShardings.
      mesh: everything that is no parameter's moment is whole on each of its devices.
    """

    def place(moment, param, sharding):
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
    """Device arrays from this process's rows of the global batch."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in arrays.items()}


def local_rows(rows: int, mesh: Mesh) -> slice:
    """The rows of a global batch whose devices belong to this process."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    bounds = [index[0].indices(rows)[:2] for index in indices if index is not None]
    return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))
