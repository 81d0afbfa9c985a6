"""Search over meshes, batch sizes and remat policies, and a ranking of those that fit."""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import jax

from distill import outputs
from distill.model.config import REMAT_POLICIES
from distill.model.configs import tensor_parallel_sizes
from distill.precompile.estimates import estimate
from distill.precompile.model_flops import forward_flops
from distill.precompile.steps import CompiledStep, Run, compile_step
from distill.precompile.topology import Topology
from distill.sharding.partitioning import MeshConfig
from distill.training.state import random_state

Compile = Callable[[str, Run, Topology], CompiledStep]
_ENTRY = b'{"key":'  # the beginning of a file of results


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A configuration to try.

    Attributes:
      mesh: sizes of data, fsdp and model.
      batch_size: windows per batch.
      remat_policy: what the backward pass recomputes.
      least_bytes: lower bound of the HBM that it needs per device, bytes.
      guess: estimated seconds per step and window, to try promising candidates first.
    """

    mesh: tuple[int, int, int]
    batch_size: int
    remat_policy: str
    least_bytes: float
    guess: float

    def of(self, run: Run) -> Run:
        """Returns ``run`` with this configuration."""
        return dataclasses.replace(
            run,
            model=dataclasses.replace(run.model, remat_policy=self.remat_policy),
            layout=dataclasses.replace(run.layout, windows=self.batch_size),
            mesh=MeshConfig(*self.mesh),
        )


def meshes(devices: int, run: Run) -> list[tuple[int, int, int]]:
    """Returns every (data, fsdp, model) of ``devices`` devices that divides the model's heads, MLP and vocabulary."""
    out = []
    for model in range(1, devices + 1):
        whole = (*tensor_parallel_sizes(run.model), devices)
        if any(size % model for size in whole):
            continue
        rest = devices // model
        out += [(rest // fsdp, fsdp, model) for fsdp in range(1, rest + 1) if rest % fsdp == 0]
    return out


def candidates(
    run: Run, topology: Topology, batch_sizes: Sequence[int] | None = None, policies: Sequence[str] | None = None
) -> list[Candidate]:
    """Returns the candidates worth a compilation: the most promising of each remat policy, then the second of each, …

    Only the compiler knows how much memory traffic a remat policy saves, so policies are not ranked by an estimate;
    they take turns. Candidates that cannot fit are left out: those whose share of the state, plus one layer input per
    layer, exceeds a device's memory.

    Args:
      run: the run. If ``batch_sizes`` is None, its batch size, half of it and twice of it are tried.
      topology: the slice.
      batch_sizes: windows per batch.
      policies: remat policies; None tries all.
    """
    sizes = batch_sizes or [run.layout.windows // 2, run.layout.windows, run.layout.windows * 2]
    state = _state_bytes(run)
    out = []
    for mesh in meshes(len(topology.devices), run):
        for rows in sizes:
            if rows < 1 or rows % (mesh[0] * mesh[1] * run.loop.num_microbatches):
                continue
            least = state["all"] / (mesh[1] * mesh[2]) + _least_activations(run, mesh, rows)
            if least > topology.chip.device_usable_bytes:
                continue
            for policy in policies or REMAT_POLICIES:
                guess = _guess(run, topology, mesh, rows, policy, state["parameters"])
                out.append(Candidate(mesh, rows, policy, least, guess / rows))
    out.sort(key=lambda one: one.guess)
    turns = {policy: itertools.count() for policy in REMAT_POLICIES}
    order = [(next(turns[one.remat_policy]), one.guess) for one in out]
    return [one for _, one in sorted(zip(order, out), key=lambda pair: pair[0])]


def _state_bytes(run: Run) -> dict[str, float]:
    """Bytes of the whole state, and of the parameters in it."""
    ema = run.loop.ema_decay is not None
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda rng: random_state(run.model, run.optimizer, rng, ema=ema), key)

    def total(tree: Any) -> float:
        return float(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))

    return {"all": total(shapes), "parameters": total(shapes.params)}


def _least_activations(run: Run, mesh: tuple[int, int, int], rows: int) -> float:
    """Bytes of one input per layer for a micro-batch's rows, which every remat policy saves."""
    model, layout = run.model, run.layout
    positions = model.num_encoder_layers * layout.encoder_length + model.num_decoder_layers * layout.decoder_length
    bytes_each = 2 if model.dtype == "bfloat16" else 4
    return rows / (mesh[0] * mesh[1] * run.loop.num_microbatches) * positions * model.embed_dim * bytes_each


def _guess(
    run: Run, topology: Topology, mesh: tuple[int, int, int], rows: int, policy: str, parameters: float
) -> float:
    """A rough estimate of a step's seconds: matmuls at the peak, plus the bytes sent because of the mesh."""
    chip, devices = topology.chip, len(topology.devices)
    data, fsdp, model = mesh
    layout = dataclasses.replace(run.layout, windows=rows)
    passes = {"none": 3.0, "full": 4.0}.get(policy, 3.2)
    compute = passes * forward_flops(run.model, layout) / devices / chip.device_flops
    own = parameters / model
    sent = 2 * (1 - 1 / data) * own / fsdp + 2 * (1 - 1 / fsdp) * own
    tokens = (
        rows
        / (data * fsdp)
        * (
            2 * run.model.num_encoder_layers * layout.encoder_length
            + 3 * run.model.num_decoder_layers * layout.decoder_length
        )
    )
    sent += 4 * (1 - 1 / model) * tokens * run.model.embed_dim * 2
    return compute + sent / chip.device_ici_bandwidth


def search(
    run: Run,
    topology: Topology,
    space: Sequence[Candidate],
    results: str | Path,
    max_compiles: int,
    compile: Compile = lambda name, run, topology: compile_step(name, run, topology, explain=False),
) -> list[dict[str, Any]]:
    """Compiles the training step of the candidates in turn; returns them ranked by their bound on tokens/s per chip.

    If a candidate does not fit, candidates that need at least as much memory are skipped: on the same mesh, those with
    at least its batch size and a policy that recomputes no more. If a candidate fits, more recomputation is still
    tried: it may save more memory traffic than it costs.

    Args:
      run: the run to vary.
      topology: the slice.
      space: the candidates, in order.
      results: a JSON lines file. Results are appended to it, and earlier ones are reused.
      max_compiles: largest number of compilations; results from the file do not count.
      compile: compiles a step of a run.

    Raises:
      ValueError: ``space`` is empty, or ``max_compiles`` is below 1.
    """
    if not space:
        raise ValueError(
            "nothing is worth compiling: no mesh of these devices divides the model and the batch sizes and leaves "
            "room for the state; set other --search_batch_sizes or a larger --topology"
        )
    if max_compiles < 1:
        raise ValueError(f"--max_compiles must be ≥ 1; got {max_compiles}")
    path = Path(results)
    outputs.check_own("the file of results", path, _is_results, "distill precompile", remedy="delete it")
    known = _read(path)
    rows: list[dict[str, Any]] = []
    compiled = 0
    for candidate in space:
        if _needless(candidate, rows):
            continue
        tried = candidate.of(run)
        key = _key(tried, topology)
        if key not in known:
            if compiled == max_compiles:
                continue
            compiled += 1
            sizes = "×".join(map(str, candidate.mesh))
            status = f"compiling {compiled} of at most {max_compiles}: mesh {sizes}, batch {candidate.batch_size}"
            print(f"{status}, remat {candidate.remat_policy}", file=sys.stderr, flush=True)
            step = compile("train", tried, topology)
            result = estimate(dataclasses.replace(step, text=""), tried, topology.chip, len(topology.devices))
            known[key] = result
            path.parent.mkdir(parents=True, exist_ok=True)
            _append(path, {"key": key, "result": result})
        rows.append(_row(candidate, known[key], topology))
    return sorted(rows, key=lambda row: (not row["result"]["fits"], -row["tokens_per_second_per_chip"]))


def _row(candidate: Candidate, result: dict[str, Any], topology: Topology) -> dict[str, Any]:
    speed = result.get("tokens_per_second_bound", 0.0) / topology.num_chips
    return {
        "mesh": list(candidate.mesh),
        "batch_size": candidate.batch_size,
        "remat_policy": candidate.remat_policy,
        "tokens_per_second_per_chip": speed if result["fits"] else 0.0,
        "result": result,
    }


def _needless(candidate: Candidate, rows: Sequence[dict[str, Any]]) -> bool:
    order = REMAT_POLICIES.index(candidate.remat_policy)
    return any(
        not row["result"]["fits"]
        and tuple(row["mesh"]) == candidate.mesh
        and row["batch_size"] <= candidate.batch_size
        and REMAT_POLICIES.index(row["remat_policy"]) >= order
        for row in rows
    )


def _key(run: Run, topology: Topology) -> str:
    """A short digest of everything that the compiled program depends on."""
    key = jax.random.key(0)
    state = jax.eval_shape(lambda rng: random_state(run.model, run.optimizer, rng), key)
    try:
        compiler = version("libtpu")
    except PackageNotFoundError:
        compiler = "none"
    parts = (
        run.model,
        run.loss,
        run.loop,
        run.layout,
        run.mesh,
        run.rules,
        state,
        topology.name,
        compiler,
        jax.__version__,
    )
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:20]


def _append(path: Path, entry: dict[str, Any]) -> None:
    """Appends a JSON line, on a new line even if a killed search left the last line incomplete."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(entry).encode() + b"\n")


def _is_results(file: BinaryIO) -> bool:
    """Whether its first line, which may be incomplete, is a result."""
    return file.read(len(_ENTRY)) == _ENTRY


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Earlier results by key; an incomplete last line is skipped."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
            found[entry["key"]] = entry["result"]
        except (ValueError, RecursionError, KeyError, TypeError):
            continue
    return found
