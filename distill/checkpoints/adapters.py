"""Reads the parameters of a training state that has low-rank adapters, or averages of the trained parameters only.

A state saves adapters beside their kernels, and averages of trained parameters only. Readers get plain parameters.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from distill.checkpoints import orbax_tree
from distill.checkpoints.arrays import Tensor
from distill.model import lora
from distill.model.parameters import flatten, unflatten
from distill.sharding.dense import LORA_A, LORA_B

PARAMS, AVERAGES = "params", "ema_params"


def wanted(saved: Mapping[str, Any], like: Any) -> dict[str, Any]:
    """Returns the arrays of a saved state that evaluation needs: ``ema_params``, and those ``params`` without an average.

    Args:
      saved: the state's metadata, with the ``shape`` and ``dtype`` of each array.
      like: the parameters of the network as ``ShapeDtypeStruct`` with shardings. Adapters are replicated.
    """
    params, averages = (flatten(saved.get(name) or {}) for name in (PARAMS, AVERAGES))
    plain = flatten(like)
    one = next(iter(plain.values())).sharding
    replicated = NamedSharding(one.mesh, PartitionSpec()) if isinstance(one, NamedSharding) else one
    names = [*plain, *(name for name in params if name not in plain and lora.of_adapters(name))]
    out: dict[str, dict[str, Any]] = {}
    for name in names:
        item, metadata = (AVERAGES, averages) if name in averages else (PARAMS, params)
        if name in plain:
            leaf = plain[name]
        else:
            leaf = jax.ShapeDtypeStruct(metadata[name].shape, metadata[name].dtype, sharding=replicated)
        out.setdefault(item, {})[name] = leaf
    return {item: unflatten(leaves) for item, leaves in out.items()}


def evaluated(restored: Mapping[str, Any]) -> Any:
    """Returns plain parameters from the arrays that :func:`wanted` chose: adapters are merged into their kernels."""
    return lora.merged(unflatten({name: leaf for part in restored.values() for name, leaf in flatten(part).items()}))


def tensors(step: epath.Path) -> dict[str, Tensor]:
    """Returns the parameters of a saved state by name, read on demand: averages if saved; adapters are merged."""
    state = step / "state"
    names = orbax_tree.paths(state)
    there = [item for item in (PARAMS, AVERAGES) if any(name.startswith(f"{item}/") for name in names)]
    if _below(names, AVERAGES) == _below(names, PARAMS):
        there = [AVERAGES]
    opened: dict[str, Tensor] = {}
    for item in there:
        opened |= {name.removeprefix(f"{item}/"): one for name, one in orbax_tree.tensors(state, (item,)).items()}
    if lora.SCALE not in opened:
        return opened
    out = {}
    for name, tensor in opened.items():
        if lora.of_adapters(name):
            continue
        beside = name.rpartition("/")[0]
        a, b = (opened.get(f"{beside}/{matrix}") for matrix in (LORA_A, LORA_B))
        if name.endswith("/kernel") and a is not None and b is not None:
            tensor = Tensor(tensor.info, functools.partial(_read_merged, tensor, a, b, opened[lora.SCALE]))
        out[name] = tensor
    return out


def _read_merged(kernel: Tensor, a: Tensor, b: Tensor, scale: Tensor, index: Any) -> np.ndarray:
    arrays = (jnp.asarray(one.read(), jnp.float32) for one in (kernel, a, b, scale))
    return np.asarray(lora.merged_kernel(*arrays))[index]


def check_same_arrays(step: epath.Path, like: Any) -> None:
    """Raises ValueError, with the remedy, if arrays, rank or α of a saved state differ from those of ``like``.

    Without this check, Orbax's own error would look like damage. A step whose metadata cannot be read passes the check: its
    restore reports the error.
    """
    try:
        there = set(orbax_tree.paths(step / "state"))
    except (ValueError, OSError):
        return
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    remedy = "continue with the settings of the run (see its config.gin), or train in another MODEL_DIR"
    if only := sorted(there ^ set(leaves)):
        side = "the checkpoint" if only[0] in there else "this run"
        raise ValueError(
            f"checkpoint {step} is of another training: {len(only)} arrays are not in both, such as {only[0]} of {side}; "
            f"the optimizer, EMA_DECAY, LORA_RANK, LORA_TARGETS or FROZEN differ: {remedy}"
        )
    name = next((name for name in sorted(leaves) if name.endswith(f"/{LORA_A}") and name.startswith(PARAMS)), None)
    if name is None:
        return
    saved = orbax_tree.tensors(step / "state", tuple(name.split("/")))[name].info.shape
    if saved != tuple(leaves[name].shape):
        raise ValueError(
            f"checkpoint {step} has adapters of LORA_RANK={saved[-1]}; got LORA_RANK={leaves[name].shape[-1]}: {remedy}"
        )
    path = (PARAMS, lora.SCALE)
    scale = leaves["/".join(path)]
    if isinstance(scale, jax.Array):
        before = orbax_tree.tensors(step / "state", path)["/".join(path)].read()
        if float(before) != float(scale):
            rank = saved[-1]
            raise ValueError(
                f"checkpoint {step} has adapters of LORA_ALPHA={float(before) * rank:g}; got "
                f"LORA_ALPHA={float(scale) * rank:g}: {remedy}"
            )


def _below(names: list[str], item: str) -> set[str]:
    return {name.removeprefix(f"{item}/") for name in names if name.startswith(f"{item}/")}


def _name(path: tuple[Any, ...]) -> str:
    """A path of JAX as Orbax writes it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
