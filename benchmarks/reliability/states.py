"""Compares the newest checkpoints of two runs: every array of the training state, the data position, the progress."""

import math
import pathlib
from typing import Any

import numpy as np

_OF_THE_MACHINE = ("seconds", "chip_seconds", "phases", "peak_memory_bytes")
"""Entries of the progress that measure the run: no two runs agree in them."""


def difference(one: pathlib.Path, other: pathlib.Path, rtol: float = 0.0) -> str:
    """What differs in two model directories, or "" if nothing does.

    Args:
      one, other: model directories.
      rtol: the tolerance of floating-point arrays, relative to each element or to 1e-1 of the array's largest, and of the
        floating-point sums in the progress; 0 compares bits.
    """
    steps = [_newest(folder) for folder in (one, other)]
    if steps[0].name != steps[1].name:
        return f"the newest checkpoints are of steps {steps[0].name} and {steps[1].name}"
    for item in ("position", "progress"):
        ours, theirs = (_json(step, item) for step in steps)
        if found := _unequal(ours, theirs, rtol):
            return f"{item}: {found}"
    arrays = [_arrays(step / "state") for step in steps]
    if arrays[0].keys() != arrays[1].keys():
        return "the states hold other arrays"
    for name, ours in arrays[0].items():
        theirs = arrays[1][name]
        if rtol == 0.0 or not np.issubdtype(ours.dtype, np.floating):
            if ours.tobytes() != theirs.tobytes():
                return f"{name} differs in {int((ours != theirs).sum())} of {ours.size} elements"
        elif not np.allclose(ours, theirs, rtol=rtol, atol=0.1 * rtol * float(np.abs(ours).max(initial=0.0))):
            return f"{name} differs by up to {float(np.abs(ours - theirs).max()):.3g}"
    return ""


def _unequal(ours: Any, theirs: Any, rtol: float) -> str:
    """The first entry of two JSON values that differs, or ""; a sum of floats may differ by ``rtol`` of itself."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        found = {name: _unequal(value, theirs[name], rtol) for name, value in ours.items()}
        return next((f"{name}: {text}" for name, text in found.items() if text), "")
    both_floats = isinstance(ours, float) and isinstance(theirs, float)
    equal = math.isclose(ours, theirs, rel_tol=rtol, abs_tol=0.0) if both_floats else ours == theirs
    return "" if equal else f"{ours} and {theirs}"


def _newest(model_dir: pathlib.Path) -> pathlib.Path:
    steps = [path for path in (model_dir / "checkpoints").iterdir() if path.name.isdecimal()]
    return max(steps, key=lambda path: int(path.name))


def _json(step: pathlib.Path, item: str) -> dict[str, Any]:
    from etils import epath

    from distill.checkpoints import schemas

    found = dict(schemas.read_json(epath.Path(step), item))
    return {name: value for name, value in found.items() if name not in _OF_THE_MACHINE}


def _arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
    import jax
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(folder).item_metadata.tree
        onto = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=onto))
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(restored)
    }
