"""Low-rank adapters of dense kernels: LoRA (Hu et al. 2021, arXiv 2106.09685).

A kernel ``W`` [inputs, features] becomes ``W + α / rank · A B`` with ``A`` [inputs, rank] and ``B`` [rank, features]. ``A``
is random and ``B`` is zero at first, so the network is unchanged at step 0. :class:`distill.sharding.dense.Dense` computes
``x W + (x A) B``, never the sum of the kernels.

Adapters are arrays of the parameter tree: ``lora_a`` and ``lora_b`` beside ``kernel``, and one ``lora_scale``, α / rank, at
the root. The tree alone describes its adapters, so merging the adapters of a checkpoint needs no settings. In stacked
layers, every matrix has the layer axis of its kernel, axis 1.
"""

import dataclasses
import functools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from distill import validation
from distill.array_types import AnyArray
from distill.model.parameters import Params, flatten, unflatten
from distill.sharding.dense import LORA_A, LORA_B

SCALE = "lora_scale"
# The kernels of attention and of feed-forward blocks.
TARGETS = ("(attention|mlp)/[^/]+/kernel$",)
# Not a kernel of a Dense layer: the loss reads it in pieces.
_OUTPUT_KERNEL = "decoder/logits_dense/kernel"


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which kernels have adapters, and of which rank.

    Attributes:
      rank: columns of ``A`` and rows of ``B``.
      alpha: the product ``A B`` is multiplied by ``alpha / rank``.
      targets: regular expressions; a kernel whose '/'-joined path contains a match has an adapter.

    Raises:
      ValueError: ``rank`` is below 1, ``alpha`` is not positive, or ``targets`` is empty.
    """

    rank: int
    alpha: float = 16.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", patterns("LORA_TARGETS", self.targets))
        validation.check_range("LORA_RANK", self.rank, "an integer ≥ 1")
        validation.check_range("LORA_ALPHA", self.alpha, "a finite number > 0")
        if not self.targets:
            raise ValueError(
                "LORA_TARGETS must name at least one pattern, or LORA_RANK must be None; got LORA_TARGETS=()"
            )

    @property
    def scale(self) -> float:
        """α / rank."""
        return self.alpha / self.rank

    def kernels(self, paths: Sequence[str]) -> list[str]:
        """Returns the paths of the kernels that have adapters, in order.

        Raises:
          ValueError: a target is no regular expression, matches nothing, or matches an array that cannot have an adapter.
        """
        chosen = matched("LORA_TARGETS", self.targets, paths)
        for path in chosen:
            if path == _OUTPUT_KERNEL or path.split("/")[-1] != "kernel":
                raise ValueError(
                    f"LORA_TARGETS must match kernels of attention and feed-forward layers; {list(self.targets)} matches "
                    f"{path}, which can have no adapter: train it whole, with FROZEN patterns that leave it out"
                )
        return [path for path in paths if path in chosen]


def patterns(setting: str, given: Sequence[str]) -> tuple[str, ...]:
    """Returns ``given`` as a tuple. Raises ValueError, which names ``setting``, if it is a string."""
    if isinstance(given, str):
        raise ValueError(f"{setting} must be a tuple of patterns; got the text {given!r}: write ({given!r},)")
    return tuple(given)


def matched(setting: str, wanted: Sequence[str], paths: Sequence[str]) -> set[str]:
    """Returns the paths in which one of the regular expressions ``wanted`` is found.

    Raises:
      ValueError: a pattern is not a regular expression, or is found in no path; names ``setting``.
    """
    found: set[str] = set()
    for pattern in wanted:
        try:
            here = {path for path in paths if re.search(pattern, path)}
        except (re.error, TypeError) as error:
            raise ValueError(f"{setting}: expected regular expressions; got {pattern!r}: {error}") from None
        if not here:
            endings = sorted({"/".join(path.split("/")[-2:]) for path in paths})
            raise ValueError(
                f"{setting}: {pattern!r} matches no parameter; paths look like {paths[0]} and end in "
                f"{', '.join(endings[:8])}{' …' if len(endings) > 8 else ''}"
            )
        found |= here
    return found


def is_adapted(params: Mapping[str, Any]) -> bool:
    """Whether a tree of parameters holds adapters."""
    return SCALE in params


def is_adapter(path: str) -> bool:
    """Whether a path is that of an adapter's matrix."""
    return path.rpartition("/")[2] in (LORA_A, LORA_B)


def of_adapters(path: str) -> bool:
    """Whether a path is that of an adapter's matrix or of their scale, which a network without adapters does not have."""
    return path == SCALE or is_adapter(path)


def with_adapters(params: Params, lora: Lora, rng: jax.Array) -> Params:
    """Returns ``params`` with adapters. A pure function: the caller jits it.

    ``A`` is normal with variance 1 / inputs, ``B`` is zero. A kernel's ``A`` does not depend on the other targets.

    Args:
      params: float32 parameters without adapters.
      lora: which kernels have adapters.
      rng: key of the random matrices.
    """
    leaves = flatten(params)
    out = dict(leaves)
    for path in lora.kernels(list(leaves)):
        kernel, key = leaves[path], jax.random.fold_in(rng, zlib.crc32(path.encode()))
        shape = (*kernel.shape[:-1], lora.rank)
        out[_beside(path, LORA_A)] = jax.random.normal(key, shape, jnp.float32) * kernel.shape[0] ** -0.5
        out[_beside(path, LORA_B)] = jnp.zeros((lora.rank, *kernel.shape[1:]), jnp.float32)
    return {**unflatten(out), SCALE: jnp.float32(lora.scale)}


def logical_axes(axes: Mapping[str, Any], params: Mapping[str, Any]) -> Params:
    """Returns the logical axes of ``params``, which may hold adapters, from those of the parameters without adapters.

    ``A`` has the axes of its kernel's inputs, ``B`` those of its features; the rank is not sharded.
    """
    if not is_adapted(params):
        return dict(axes)
    of_base, out = flatten(axes), {}
    for path in flatten(params):
        if path == SCALE:
            out[path] = PartitionSpec()
        elif is_adapter(path):
            kernel = tuple(of_base[_beside(path, "kernel")])
            is_a = path.endswith(LORA_A)
            out[path] = PartitionSpec(*((*kernel[:-1], None) if is_a else (None, *kernel[1:])))
        else:
            out[path] = of_base[path]
    return unflatten(out)


def scaled(params: Params) -> Params:
    """Returns ``params`` as the layers read them: ``B`` multiplied by α / rank, and no ``lora_scale``.

    Parameters without adapters are returned unchanged.
    """
    if not is_adapted(params):
        return params
    rest = {name: part for name, part in params.items() if name != SCALE}

    def times(path: tuple[Any, ...], leaf: AnyArray) -> AnyArray:
        return (leaf.astype(jnp.float32) * params[SCALE]).astype(leaf.dtype) if path[-1].key == LORA_B else leaf

    return jax.tree_util.tree_map_with_path(times, rest)


def without(tree: Params) -> Params:
    """Returns a tree of parameters, or of the same structure, without adapters: the network before LoRA."""
    if not is_adapted(tree):
        return tree
    return unflatten({path: leaf for path, leaf in flatten(tree).items() if not of_adapters(path)})


def merged(params: Params) -> Params:
    """Returns ``W + α / rank · A B`` as plain kernels, sharded as ``W``: the parameters of a network without adapters.

    Computed in float32. Parameters without adapters are returned unchanged. From a tree of ``ShapeDtypeStruct``, the
    adapters are removed.
    """
    if not is_adapted(params) or any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        return without(params)
    plain = flatten(without(params))
    shardings = {path: getattr(leaf, "sharding", None) for path, leaf in plain.items()}
    merge = _jitted_merge(tuple(shardings.items()))
    pairs = {path: (params_of, *adapter) for path, params_of, *adapter in _adapted_leaves(params)}
    return unflatten({**plain, **merge(pairs, params[SCALE])})


@functools.lru_cache(maxsize=8)
def _jitted_merge(shardings: tuple[tuple[str, Any], ...]) -> Any:
    by_path = dict(shardings)

    def merge(pairs: Mapping[str, tuple[jax.Array, jax.Array, jax.Array]], scale: jax.Array) -> dict[str, jax.Array]:
        out = {path: merged_kernel(*pair, scale) for path, pair in pairs.items()}
        placed = {path: sharding for path, sharding in by_path.items() if isinstance(sharding, NamedSharding)}
        return {
            path: jax.lax.with_sharding_constraint(leaf, placed[path]) if path in placed else leaf
            for path, leaf in out.items()
        }

    return jax.jit(merge)


def _adapted_leaves(params: Params) -> Iterator[tuple[str, Any, Any, Any]]:
    leaves = flatten(params)
    for path, leaf in leaves.items():
        if path.endswith(f"/{LORA_A}"):
            kernel = _beside(path, "kernel")
            yield kernel, leaves[kernel], leaf, leaves[_beside(path, LORA_B)]


def merged_kernel(
    kernel: Float[AnyArray, "inputs *layers features"],
    a: Float[AnyArray, "inputs *layers rank"],
    b: Float[AnyArray, "rank *layers features"],
    scale: Float[AnyArray, ""],
) -> Float[Array, "inputs *layers features"]:
    """Returns ``kernel + scale · a b`` for one kernel, or for stacked kernels, in float32."""
    subscripts = "dlr,rlf->dlf" if kernel.ndim == 3 else "dr,rf->df"
    return jnp.asarray(kernel) + scale * jnp.einsum(subscripts, a, b, precision="highest")


def _beside(path: str, name: str) -> str:
    return f"{path.rpartition('/')[0]}/{name}"
