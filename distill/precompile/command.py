"""``distill precompile``: the memory, work and speed bounds of a run on TPUs, computed without a TPU."""

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from distill import outputs
from distill.counting import counted

if TYPE_CHECKING:
    from distill.precompile.estimates import Data
    from distill.precompile.steps import Run

_MODULE = b"HloModule "  # the beginning of a program as text


@dataclasses.dataclass(frozen=True)
class Settings:
    """Compile the steps of a run for a TPU topology and report whether they fit, their costs and their time bounds.


    Attributes:
      topology: GENERATION:CHIPS, such as v5e:4x4 or v4:2x2x2, of v2, v3, v4, v5e, v5p, v6e and tpu7x.
      steps: the steps to compile, comma-separated: train, decode.
      price_per_chip_hour: price of a chip per hour; adds the run's cost.
      examples_per_step, examples_per_epoch: add epochs per hour; ``measure_data`` reads both from the data.
      measure_data: read the run's data for examples per step and per epoch.
      json: end the output with one line of JSON.
      hlo_dir: write the compiled programs to this folder as text.
      search: try meshes, batch sizes and rematerialisation policies, and rank them.
      search_batch_sizes: with search: values of BATCH_SIZE, comma-separated.
      search_remat_policies: with search: values of REMAT_POLICY, comma-separated.
      search_results: with search: a file that keeps the results, so that an interrupted search can continue.
      max_compiles: with search: the maximum number of candidates to compile.
    """

    topology: str
    steps: str = "train,decode"
    price_per_chip_hour: float | None = None
    examples_per_step: float | None = None
    examples_per_epoch: int | None = None
    measure_data: bool = False
    json: bool = False
    hlo_dir: str | None = None
    search: bool = False
    search_batch_sizes: str | None = None
    search_remat_policies: str | None = None
    search_results: str = "precompile_search.jsonl"
    max_compiles: int = 8


def precompile(given: Mapping[str, Any], settings: Settings) -> bool:
    """Compiles the steps, prints the report, and returns whether all of them fit (with a search: any candidate).

    Args:
      given: the arguments of :func:`distill.training.train.train`.
      settings: the command's flags.

    Raises:
      ValueError: an invalid flag, a mesh that does not match the topology, or another program's file in the place of one
        that ``hlo_dir`` names.
    """
    from pathlib import Path

    import jax

    from distill.precompile import estimates, report, steps, topology

    names = _names(settings.steps, steps.STEPS, "--steps")
    for name in ("price_per_chip_hour", "examples_per_step", "examples_per_epoch"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be > 0; got {value}")
    jax.config.update("jax_platforms", "cpu")
    run = steps.Run.from_arguments(given)
    if run.decode is None and "decode" in names and len(names) > 1:
        names = [name for name in names if name != "decode"]
    programs = {name: Path(settings.hlo_dir) / f"{name}.hlo" for name in names} if settings.hlo_dir else {}
    for path in programs.values():
        outputs.check_own("the program", path, _is_program, "distill precompile", remedy="delete it")
    target = topology.open_topology(settings.topology)
    if settings.search:
        return _search(run, target, settings)
    topology.mesh_shape(run.mesh, len(target.devices), target.name)
    data = _data(given, run, settings)
    out = {}
    for name in names:
        step = steps.compile_step(name, run, target)
        if name in programs and step.text:
            programs[name].parent.mkdir(parents=True, exist_ok=True)
            programs[name].write_text(step.text)
        arguments = (run, target.chip, len(target.devices), data, settings.price_per_chip_hour)
        out[name] = estimates.estimate(step, *arguments)
    shape = dict(zip(("data", "fsdp", "model"), topology.mesh_shape(run.mesh, len(target.devices), target.name)))
    layout = run.layout
    heading = (
        f"{target.name}: {counted(target.num_chips, 'chip')}, {counted(len(target.devices), 'device')}; mesh "
        + " × ".join(f"{axis}={size}" for axis, size in shape.items())
        + f"; {layout.windows} windows of {layout.encoder_length} + {layout.decoder_length} tokens"
    )
    report.render(out, heading)
    if settings.json:
        fits = all(step["fits"] for step in out.values())
        line = {"topology": target.name, "chips": target.num_chips, "devices": len(target.devices), "mesh": shape}
        print(json.dumps({**line, "fits": fits, **out[names[0]], "step": names[0], "steps": out} | {"fits": fits}))
    return all(step["fits"] for step in out.values())


def _is_program(file: BinaryIO) -> bool:
    return file.read(len(_MODULE)) == _MODULE


def _names(text: str, known: tuple[str, ...], flag: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"{flag} takes names of {', '.join(known)}, comma-separated; got {text!r}")
    return list(dict.fromkeys(names))


def _data(given: Mapping[str, Any], run: "Run", settings: Settings) -> "Data":
    from distill.precompile.estimates import Data

    each, epoch = settings.examples_per_step, settings.examples_per_epoch
    if settings.measure_data and (each is None or epoch is None):
        from distill.data.batches import BatchStream

        config = given["data"]
        stream = BatchStream(
            config.mixture_or_task_name,
            config.layout,
            split=config.split,
            seed=run.loop.seed,
            rows=slice(None),
            shuffle=config.shuffle,
        )
        drawn = [next(stream) for _ in range(8)]
        seen = sum(batch.examples for batch in drawn)
        each = each or seen / len(drawn)
        epoch = epoch or max(1, round(seen / drawn[-1].epoch))
    return Data(each, epoch)


def _search(run: "Run", target: Any, settings: Settings) -> bool:
    from distill.precompile import report, search

    sizes = settings.search_batch_sizes
    try:
        batches = [int(size) for size in sizes.split(",")] if sizes else None
    except ValueError:
        raise ValueError(f"--search_batch_sizes takes integers, comma-separated; got {sizes!r}") from None
    policies = settings.search_remat_policies
    space = search.candidates(
        run, target, batches, _names(policies, search.REMAT_POLICIES, "--search_remat_policies") if policies else None
    )
    rows = search.search(run, target, space, settings.search_results, settings.max_compiles)
    report.render_search(rows)
    if settings.json:
        print(json.dumps({"topology": target.name, "fits": any(r["result"]["fits"] for r in rows), "ranking": rows}))
    return any(row["result"]["fits"] for row in rows)
