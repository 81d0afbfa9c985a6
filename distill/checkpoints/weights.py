"""A checkpoint of any layout, read as the parameters of a configuration.

Layers may be stacked (along axis 1) or not on either side, and the heads of attention kernels may be a separate axis, as
in T5X's scalable_t5. All shapes are checked before any array is read.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from distill.checkpoints.arrays import FLOATS, Tensor, TensorInfo
from distill.counting import counted
from distill.model.configs import NetworkConfig
from distill.model.network import T5Config
from distill.model.parameters import flatten, param_shapes, unflatten

STACKS = ("encoder", "decoder")
_MAX_LAYERS = 2**10
_ATTENTIONS = ("attention", "self_attention", "encoder_decoder_attention")


def flat_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of ``config`` by its '/'-joined name."""
    return dict(_flat_shapes(config))


@functools.lru_cache(maxsize=16)
def _flat_shapes(config: NetworkConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, leaf.shape) for name, leaf in flatten(param_shapes(config)).items())


def stacked_name(name: str) -> tuple[str, int] | None:
    """The place of a layer's parameter in a stacked array: name and index in axis 1. None for parameters outside of layers.

    >>> stacked_name("encoder/layers_3/mlp/wo/kernel")
    ('encoder/encoder/mlp/wo/kernel', 3)
    """
    parts = name.split("/")
    if len(parts) < 3 or parts[0] not in STACKS or not parts[1].startswith("layers_"):
        return None
    index = parts[1].removeprefix("layers_")
    if not (index.isascii() and index.isdigit()) or str(int(index)) != index:
        return None
    return "/".join([parts[0], parts[0], *parts[2:]]), int(index)


def is_stacked(name: str) -> bool:
    """Whether a parameter holds all layers, along axis 1."""
    parts = name.split("/")
    return len(parts) > 2 and parts[0] in STACKS and parts[1] == parts[0]


def unstacked_name(name: str, index: int) -> str:
    """The inverse of :func:`stacked_name`."""
    stack, _, *rest = name.split("/")
    return "/".join([stack, f"layers_{index}", *rest])


def reading_order(name: str) -> tuple[str, int]:
    """Sort key that puts parameters of the same stacked array next to each other."""
    return stacked_name(name) or (name, -1)


def _split_heads(name: str, rank: int) -> bool:
    parts = name.split("/")
    in_attention = len(parts) > 3 and parts[-1] == "kernel" and parts[-3] in _ATTENTIONS
    return in_attention and rank == (4 if is_stacked(name) else 3)


def _joined_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not _split_heads(name, len(shape)):
        return shape
    if name.split("/")[-2] == "out":  # heads, (layers,) head_dim, embed
        return (shape[0] * shape[-2], *shape[1:-2], shape[-1])
    return (*shape[:-2], shape[-2] * shape[-1])  # embed, (layers,) heads, head_dim


def join_heads(name: str, array: np.ndarray) -> np.ndarray:
    """An attention kernel whose heads are an axis, in this project's shape; other arrays unchanged."""
    if not _split_heads(name, array.ndim):
        return array
    shape = _joined_shape(name, array.shape)
    if name.split("/")[-2] == "out" and array.ndim == 4:
        array = np.moveaxis(array, 1, 2)
        return array.reshape(-1, *array.shape[2:])
    return array.reshape(shape)


def split_heads(name: str, array: np.ndarray, config: T5Config) -> np.ndarray:
    """The inverse of :func:`join_heads`."""
    parts = name.split("/")
    if len(parts) < 4 or parts[-1] != "kernel" or parts[-3] not in _ATTENTIONS:
        return array
    heads = (config.num_heads, config.head_dim)
    if parts[-2] != "out":
        return array.reshape(*array.shape[:-1], *heads)
    array = array.reshape(*heads, *array.shape[1:])
    return np.moveaxis(array, 2, 1) if array.ndim == 4 else array


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Parameters in a file, by T5X's names below the network's root, read on demand.

    Attributes:
      where: its name in errors.
      tensors: every parameter by its '/'-joined name.
      step: of the training that wrote it, if it is recorded.
    """

    where: str
    tensors: Mapping[str, Tensor]
    step: int | None = None

    @property
    def scanned(self) -> bool:
        """Whether its layers are stacked."""
        return any(is_stacked(name) for name in self.tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name, heads joined."""
        return {name: _joined_shape(name, tensor.info.shape) for name, tensor in self.tensors.items()}

    def infos(self) -> dict[str, TensorInfo]:
        """Shapes and dtypes by name, as stored in the file."""
        return {name: tensor.info for name, tensor in self.tensors.items()}


def from_leaves(leaves: Mapping[str, Any]) -> Checkpoint:
    """Parameters in memory, on the host or on devices, as a checkpoint."""

    def tensor(leaf: Any) -> Tensor:
        return Tensor(TensorInfo(tuple(leaf.shape), leaf.dtype.name), lambda index: np.asarray(leaf)[index])

    return Checkpoint("the parameters", {name: tensor(leaf) for name, leaf in leaves.items()})


def as_leaves(params: Mapping[str, Any], config: NetworkConfig) -> dict[str, Any]:
    """Parameters by name. Raises ValueError, naming every difference, unless they are those of ``config``."""
    leaves, wanted = flatten(params), flat_shapes(config)
    problems = []
    for name, shape in wanted.items():
        if name not in leaves:
            problems.append(f"{name}: there is none, configuration {shape_text(shape)}")
        elif tuple(leaves[name].shape) != shape:
            problems.append(f"{name}: {shape_text(tuple(leaves[name].shape))}, configuration {shape_text(shape)}")
        elif isinstance(leaves[name], jax.Array) and not leaves[name].is_fully_addressable:
            problems.append(f"{name}: is sharded over other processes' devices; replicate it first")
    problems += [
        f"{name}: {shape_text(tuple(leaf.shape))}, configuration has none"
        for name, leaf in leaves.items()
        if name not in wanted
    ]
    if problems:
        raise ValueError("the parameters do not fit the configuration:\n  " + "\n  ".join(problems))
    return leaves


class Weights:
    """The parameters of a configuration, from a checkpoint of either layout; float32, read one at a time.

    The last stacked array stays in memory: in the order of :func:`reading_order`, every array is read once.

    Args:
      checkpoint: the source.
      config: the configuration of the parameters, which also sets their layout.

    Raises:
      ValueError: it does not fit; every differing array is listed, with both shapes.
    """

    def __init__(self, checkpoint: Checkpoint, config: NetworkConfig):
        self.config, self.checkpoint = config, checkpoint
        self.shapes = flat_shapes(config)
        check_fit(checkpoint, config)
        self._held: tuple[str, np.ndarray] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.shapes, key=reading_order))

    def read(self, name: str, index: Any = ...) -> np.ndarray:
        """A parameter, or the part of it that ``index`` selects, as float32."""
        tensors = self.checkpoint.tensors
        if name in tensors:
            if _split_heads(name, len(tensors[name].info.shape)):
                return self._whole(name)[index]
            return _float32(tensors[name].read(index))
        place = stacked_name(name)
        if place is not None:
            stacked, layer = place
            return self._stacked(stacked)[:, layer][index]
        shape = self.shapes[name]
        result = np.empty(shape, np.float32)
        for layer in range(shape[1]):
            result[:, layer] = self._whole(unstacked_name(name, layer))
        return result[index]

    def _whole(self, name: str) -> np.ndarray:
        return join_heads(name, _float32(self.checkpoint.tensors[name].read()))

    def _stacked(self, name: str) -> np.ndarray:
        if self._held is None or self._held[0] != name:
            self._held = None  # release the last one before the next is read
            self._held = name, self._whole(name)
        return self._held[1]

    def release(self) -> None:
        """Releases the stacked array in memory."""
        self._held = None

    def tree(self, shardings: Any = None) -> dict[str, Any]:
        """All parameters as a tree.

        Args:
          shardings: a tree of shardings like the parameters: each array is placed when it is read, and a process reads only
            the shards of its local devices. None returns NumPy arrays.
        """
        by_name = None if shardings is None else flatten(shardings)
        leaves = {}
        for name in self:
            if by_name is None:
                leaf: Any = np.ascontiguousarray(self.read(name))
            elif by_name[name].is_fully_addressable:
                leaf = jax.block_until_ready(jax.device_put(np.ascontiguousarray(self.read(name)), by_name[name]))
            else:
                leaf = jax.make_array_from_callback(
                    self.shapes[name], by_name[name], functools.partial(self.read, name)
                )
            leaves[name] = leaf
        self.release()
        return unflatten({name: leaves[name] for name in self.shapes})


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32, copy=False)


def check_no_differences(problems: Sequence[str], where: object, hint: str = "") -> None:
    """Raises ValueError if there are problems: differences of the checkpoint ``where`` from the configuration."""
    if problems:
        number = counted(len(problems), "difference")
        raise ValueError(f"{where} does not fit the configuration ({number}{hint}):\n  " + "\n  ".join(problems))


def check_fit(checkpoint: Checkpoint, config: NetworkConfig) -> None:
    """Raises one ValueError that lists every array in which a checkpoint and ``config`` differ, with both shapes."""
    held = checkpoint.shapes()
    wanted = flat_shapes(dataclasses.replace(config, scan_layers=checkpoint.scanned))
    problems = []
    for name, shape in wanted.items():
        if name not in held:
            problems.append(f"{name}: checkpoint has none, configuration {shape_text(shape)}")
        elif held[name] != shape:
            problems.append(f"{name}: checkpoint {shape_text(held[name])}, configuration {shape_text(shape)}")
        elif checkpoint.tensors[name].info.dtype not in FLOATS:
            problems.append(
                f"{name}: checkpoint holds {checkpoint.tensors[name].info.dtype}, expected {', '.join(FLOATS)}"
            )
    problems += [
        f"{name}: checkpoint {shape_text(shape)}, configuration has none"
        for name, shape in held.items()
        if name not in wanted
    ]
    check_no_differences(problems, checkpoint.where, _hint(held, wanted) if problems else "")


_TABLE, _LOGITS = "token_embedder/embedding", "decoder/logits_dense/kernel"


def _hint(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The likely cause of the differences, if it is clear."""
    hints = []
    if _TABLE in held and _TABLE in wanted and len(held[_TABLE]) == 2:
        for what, axis in (("vocabulary", 0), ("width", 1)):
            if held[_TABLE][axis] != wanted[_TABLE][axis]:
                hints.append(f"{what} {held[_TABLE][axis]} there, {wanted[_TABLE][axis]} here")
    if (_LOGITS in held) != (_LOGITS in wanted):
        tied = (
            "the checkpoint's logits come from the token table (logits_via_embedding=True), the configuration's do not"
        )
        untied = "the checkpoint has a kernel for the logits, the configuration is logits_via_embedding=True"
        hints.append(untied if _LOGITS in held else tied)
    for stack in STACKS:
        there, here = num_layers(held, stack), num_layers(wanted, stack)
        if there != here:
            hints.append(f"{there} {stack} layers there, {here} here")
    return "; " + "; ".join(hints) if hints else ""


def num_layers(shapes: Mapping[str, tuple[int, ...]], stack: str) -> int:
    """The number of layers of a stack; 0 if it has no parameters."""
    layers = [place[1] + 1 for name in shapes if name.startswith(f"{stack}/") and (place := stacked_name(name))]
    stacked = [shape[1] for name, shape in shapes.items() if name.startswith(f"{stack}/{stack}/") and len(shape) > 1]
    return max(layers + stacked, default=0)


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as text, for errors."""
    return "[" + ", ".join(map(str, shape)) + "]"


_BIAS = "relpos_bias/rel_embedding"
_SHARED_BIASES = tuple(f"{stack}/{_BIAS}" for stack in STACKS)


def _num_heads(checkpoint: Checkpoint, given: int | None) -> int:
    """The number of heads of position biases, [heads, …, buckets], and of kernels with an axis of heads; else ``given``."""
    found: dict[int, str] = {}
    for name in sorted(checkpoint.tensors, key=reading_order):
        shape = checkpoint.tensors[name].info.shape
        if name.endswith(_BIAS) and len(shape) >= 2:
            found.setdefault(shape[0], name)
        elif _split_heads(name, len(shape)):
            found.setdefault(shape[0] if name.split("/")[-2] == "out" else shape[-2], name)
    if len(found) > 1:
        seen = ", ".join(f"{heads} in {name}" for heads, name in found.items())
        raise ValueError(f"{checkpoint.where} is not a T5 checkpoint: its numbers of heads differ: {seen}")
    heads = next(iter(found), given)
    if heads is None:
        raise ValueError(
            f"{checkpoint.where} has no position bias (…/{_BIAS}), so its shapes do not determine the number of heads; "
            "give num_heads"
        )
    if heads < 1:
        raise ValueError(
            f"{checkpoint.where} is not a T5 checkpoint: the number of heads is {heads} in {found.get(heads)}"
        )
    return heads


def infer_config(checkpoint: Checkpoint, **overrides: Any) -> T5Config:
    """The configuration of a checkpoint's parameters, inferred from their shapes.

    Shapes do not determine the activation, dropout, the largest relative distance and ε. These are T5's by default: gated
    GELU, or ReLU without a gate. The number of heads is that of every position bias and of every attention kernel whose
    heads are an axis; a checkpoint with neither needs it among ``overrides``, which set fields.

    Raises:
      ValueError: the arrays are not a T5's, or they do not determine the number of heads.
    """
    shapes = checkpoint.shapes()

    def find(*endings: str) -> tuple[int, ...]:
        for name in sorted(shapes, key=reading_order):
            if name.endswith(endings):
                return shapes[name]
        raise ValueError(
            f"{checkpoint.where} is not a T5 checkpoint: no parameter {' or '.join(endings)} among {sorted(shapes)[:5]}…"
        )

    table, query, mlp = find(_TABLE), find("/query/kernel"), find("mlp/wi_0/kernel", "mlp/wi/kernel")
    heads = _num_heads(checkpoint, overrides.get("num_heads"))
    if len(table) != 2 or len(query) < 2 or len(mlp) < 2 or query[-1] % heads:
        raise ValueError(
            f"{checkpoint.where} is not a T5 checkpoint: token table {shape_text(table)}, {heads} heads, "
            f"query kernel {shape_text(query)}, feed-forward kernel {shape_text(mlp)}"
        )
    buckets = [shape[-1] for name, shape in shapes.items() if name.endswith(_BIAS)]
    layers = {stack: num_layers(shapes, stack) for stack in STACKS}
    if not all(1 <= number <= _MAX_LAYERS for number in layers.values()):
        raise ValueError(
            f"{checkpoint.where} is not a T5 checkpoint: {layers['encoder']} encoder and {layers['decoder']} decoder layers"
        )
    gated = any("/mlp/wi_1/" in name for name in shapes)
    values: dict[str, Any] = {
        "vocab_size": table[0],
        "embed_dim": table[1],
        "num_heads": heads,
        "head_dim": query[-1] // heads,
        "mlp_dim": mlp[-1],
        "num_encoder_layers": layers["encoder"],
        "num_decoder_layers": layers["decoder"],
        "mlp_activations": ("gelu", "linear") if gated else ("relu",),
        "logits_via_embedding": _LOGITS not in shapes,
        "relative_attention_num_buckets": buckets[0] if buckets else T5Config.relative_attention_num_buckets,
        "relative_bias_per_layer": any(name.endswith(_BIAS) and name not in _SHARED_BIASES for name in shapes),
        "scan_layers": checkpoint.scanned,
    }
    try:
        config = T5Config(**{**values, **overrides})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{checkpoint.where} is not a T5 checkpoint: {error}") from error
    return config
