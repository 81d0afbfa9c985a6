"""Configured runs of a sweep: their checks, costs and settings, computed once for runs that differ in the seed only."""

import dataclasses
import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from distill.api import run_checks, statements
from distill.counting import counted, form, with_more
from distill.experiments.sweep import files, outcomes, same_sweep
from distill.experiments.sweep.budgets import Cost, resolved
from distill.experiments.sweep.estimates import Bound
from distill.experiments.sweep.inputs import Inputs, named_rows
from distill.experiments.sweep.levels import RATES, SEED, SweepError
from distill.experiments.sweep.remarks import Setting
from distill.experiments.sweep.runs import START, Run, Sweep
from distill.inference import run_settings
from distill.inference.own_files import CONFIG

_NAMED = 3  # runs in a message, at most


class Configurations:
    """The configured runs of a sweep.

    Args:
      sweep: the sweep.
      configure: parses a run's configuration and registers its tasks; returns the arguments of ``train``.
      identify: the bindings that were parsed last, without seed and directory; None does not compare them.
      read: returns gin files and rows of a run from its arguments; None does not read them.
    """

    def __init__(
        self,
        sweep: Sweep,
        configure: Callable[[Run], Mapping[str, Any]],
        identify: Callable[[], Mapping[str, Any]] | None = None,
        read: Callable[[Run, Mapping[str, Any]], Inputs] | None = None,
    ):
        self._sweep, self._configure, self._identify, self._read = sweep, configure, identify, read
        self._known: dict[str, tuple[Cost, Setting, list[str]]] = {}
        self._accepted: set[str] = set()
        self._given: tuple[str, Mapping[str, Any]] | None = None
        self._measured: dict[str, list[str]] = {}
        self._samples: dict[str, list[str]] = {}
        self._seen: dict[str, list[str]] = {}
        self._values: dict[str, Mapping[str, Any]] = {}
        self._begun_with: dict[str, Mapping[str, Any]] = {}
        self._noted: set[str] = set()
        self.costs: dict[str, Cost] = {}
        self.settings: dict[str, Setting] = {}
        self.truncated: dict[str, list[str]] = {}
        self.advice: dict[str, list[str]] = {}
        self.validation: tuple[str, str] | None = None
        self.inputs = Inputs()

    def check(self, run: Run) -> None:
        """Raises ValueError or OSError if a run cannot be trained, or does not have the sweep's metric.

        The configuration of every run is built; of runs that differ in the seed only, the first one's data is read.
        """
        self._check(run, self._arguments(run))

    def check_without_devices(self, run: Run) -> None:
        """:meth:`check` for a run on other devices: mesh and compiler options are not checked here."""
        from distill.sharding import partitioning

        given = dict(self._arguments(run))
        given["loop"] = dataclasses.replace(given["loop"], compiler_options=None)
        given["mesh"] = partitioning.MeshConfig(1, 1, 1)
        self._check(run, given)

    def _check(self, run: Run, given: Mapping[str, Any]) -> None:
        from distill.training import checks

        key = _without_seed(run)
        if key not in self._accepted:
            checks.check(**given, metrics=[self._sweep.metric])
            self._accepted.add(key)

    def check_and_note(self, run: Run) -> None:
        """:meth:`check`, and adds gin files and rows of the run to ``inputs``."""
        self.check(run)
        key = _without_seed(run)
        if self._read is not None and key not in self._noted:
            self.inputs = self.inputs.updated(self._read(run, self._arguments(run)))
            self._noted.add(key)

    def measure(self, run: Run) -> None:
        """Fills ``truncated`` for a run that was just checked: a line if training sequences are longer than the window.

        At most :data:`distill.data.examples.SAMPLE` rows of a task are read, once for runs with the same data and windows;
        of a cache, the lengths.
        """
        from distill.training.config import DataConfig

        key = _without_seed(run)
        if key not in self._measured:
            data = self._arguments(run)["data"]
            self._measured[key] = self._sampled(data) if isinstance(data, DataConfig) else []
        self.truncated[run.name] = self._measured[key]

    def _sampled(self, data: Any) -> list[str]:
        import seqio

        from distill.data import cache, counts, examples, fullness
        from distill.tasks import registration
        from distill.training import provenance

        provider = registration.get(data.mixture_or_task_name)
        tasks = provider.tasks if isinstance(provider, seqio.Mixture) else [provider]
        tasks = [task for task in tasks if registration.spans_of(task) is None]  # spans fill their windows
        layout, split, cached = data.layout, data.split, data.cache_dir
        known = [(one, own) for one in tasks if (own := provenance.known_rows(data, one)) is not None]
        rows = [(registration.settings_of(one.name), of.rows_sha256(split)) for one, of in known]
        windows = (layout.encoder_length, layout.decoder_length, layout.shared_encoder)
        key = repr(([task.name for task in tasks], split, rows, windows))
        if key not in self._samples:
            found = counts.Counts(label_is_last=any(registration.label_is_last(task.name) for task in tasks))
            is_sample = False
            for task in tasks:
                if cached is not None:
                    found.add(cache.counts(cached, task.name, split, layout))
                    continue
                _, of_task, whole = examples.sample(task, split, layout)
                found.add(of_task)
                is_sample |= not whole
            self._samples[key] = fullness.truncation(found, layout, "a sample of" if is_sample else "the")
        return self._samples[key]

    def seen_rows(self, runs: Sequence[Run]) -> list[str]:
        """Warnings that count the validation and test rows with the input of a training row, each once."""
        return list(dict.fromkeys(text for run in runs for text in self._seen.get(_without_seed(run), ())))

    def note_seen_rows(self, run: Run) -> None:
        """Reads what :meth:`seen_rows` says of a run that was just checked."""
        from distill.tasks import registration
        from distill.training import checks, provenance
        from distill.training.config import DataConfig

        key = _without_seed(run)
        if key not in self._seen:
            given = self._arguments(run)
            data, found = given["data"], []
            if isinstance(data, DataConfig):
                provider = registration.get(data.mixture_or_task_name)
                known = [provenance.known_rows(data, task) for task in getattr(provider, "tasks", [provider])]
                found = checks.seen_warnings(checks.seen_among(known, data, given.get("validation")), data)
            self._seen[key] = found

    def _arguments(self, run: Run) -> Mapping[str, Any]:
        """The arguments of a run; the run that all start from need not exist yet."""
        start = self._sweep.start_run()
        if start is not None and not start.done:
            unwritten = f"INITIAL_CHECKPOINT_PATH = {str(self._sweep.directory / START)!r}"
            run = dataclasses.replace(run, bindings=tuple(text for text in run.bindings if text != unwritten))
        key = repr((run.gin_files, run.bindings))
        if self._given is None or self._given[0] != key:
            self._given = (key, self._configure(run))
        given = self._given[1]
        validation = given.get("validation")
        if validation is not None and self.validation is None:
            self.validation = (validation.split, validation.metric)
        return given

    def describe(self, runs: Sequence[Run]) -> None:
        """Fills ``costs``, ``settings`` and ``advice``, lines about rare validations, for these runs."""
        for run in runs:
            self.costs[run.name], self.settings[run.name], self.advice[run.name] = self._described(run)

    def _described(self, run: Run) -> tuple[Cost, Setting, list[str]]:
        from distill.precompile import step_costs

        key = _without_seed(run)
        if key not in self._known:
            given = self._arguments(run)
            text = "" if self._identify is None else repr(list(_by_ratio(self._identify()).items()))
            cost = Cost(given["loop"].train_steps, step_costs.model_flops(given))
            setting = Setting(given["data"].mixture_or_task_name, given["loss"].normalizer, text)
            self._known[key] = (cost, setting, run_checks.rare_validations(given))
        return self._known[key]

    def differs(self, run: Run) -> str:
        """How a run that has begun was configured otherwise than now, in words; empty if it was not.

        Its gin files may have been edited since. Settings that the student does not depend on are not compared, and a
        configuration that cannot be parsed now is left to the checks.
        """
        path = run.directory / CONFIG
        if self._identify is None or not path.exists():
            return ""
        if (
            run.name not in self._begun_with
        ):  # a plan is prepared several times: without and with the lock of its directory
            self._begun_with[run.name] = statements.bindings_of(path.read_text(encoding="utf-8"), str(path))
        before, now = self._begun_with[run.name], self._values_of(run)
        if not before or not now:
            return ""
        before, now = ({n: v for n, v in one.items() if n not in (SEED, "MODEL_DIR")} for one in (before, now))
        found = run_settings.differences(_moved(before), _moved(now))
        return next((_shown(one) for one in found if one.student), "")

    def _values_of(self, run: Run) -> Mapping[str, Any]:
        key = _without_seed(run)
        if key not in self._values:
            try:
                self._arguments(run)
                self._values[key] = {} if self._identify is None else self._identify()
            except (ValueError, OSError):
                self._values[key] = {}
        return self._values[key]

    def refuse_changed_rows(self, runs: Sequence[Run], continued: Sequence[Run]) -> None:
        """Refuses to train runs on other rows than those of runs that were trained: they would not compare.

        Args:
          runs: of the sweep.
          continued: the runs to do that continue from their checkpoints, if they have one.

        Raises:
          SweepError: rows have changed since a run was trained; it names their files and the runs.
        """
        changed = self._changed_since(runs, continued)
        if changed:
            where = ", ".join(dict.fromkeys(of for of, _ in changed))
            names = list(dict.fromkeys(name for found in changed.values() for name in found))
            more = f" and {counted(len(names) - _NAMED, 'other run')}" if len(names) > _NAMED else ""
            raise SweepError(
                f"the rows of {where} have changed since {', '.join(names[:_NAMED])}{more} of {self._sweep.directory} "
                "began: the runs to do would have other rows, and settings of different rows do not compare. Restore the "
                "rows, give another directory with --directory=DIR, or delete the folders of the runs that were trained on "
                "the other rows"
            )

    def changed_rows(self, runs: Sequence[Run]) -> list[str]:
        """A line for training, validation and test rows that have changed since runs that are done."""
        return [
            f"the {role} rows ({where}) have changed since {with_more(names)} {form(len(names), 'was', 'were')} trained: "
            "no run is to do, so table and report are about the rows of before; for results on the rows as they are now, "
            "give another directory with --directory=DIR"
            for (where, role), names in self._changed_since(runs).items()
        ]

    def _changed_since(self, runs: Sequence[Run], continued: Sequence[Run] = ()) -> dict[tuple[str, str], list[str]]:
        """Files and role of the rows that have changed → the runs that are done, or have saved a step, on others."""
        known: dict[str, list[tuple[str, str]]] = {}  # seeds with the same rows are compared once
        out: dict[tuple[str, str], list[str]] = {}
        for run in runs:
            if run.done:
                found = self._changed_since_done(run, known)
            elif run in continued and outcomes.checkpoint_step(run.directory) is not None:
                found = self._changed_since_planned(run, known)
            else:
                continue
            for rows in found:
                out.setdefault(rows, []).append(run.name)
        return out

    def _changed_since_done(self, run: Run, known: dict[str, list[tuple[str, str]]]) -> list[tuple[str, str]]:
        from distill.training import provenance, record

        try:
            before = record.read(run.directory).data
            key = repr((_without_seed(run), sorted((role, rows.fingerprint) for role, rows in before.items())))
            if key not in known:
                given = self._arguments(run)
                roles = provenance.changed_rows(before, given["data"], given.get("validation"))
                paths = self._values_of(run).get("FILES")
                named = {role: named_rows(f"split {before[role].split}", paths) for role in roles}
                known[key] = [(named[role], "training" if role == "train" else role) for role in roles]
        except (ValueError, OSError):  # without a record, nothing can be compared
            return []
        return known[key]

    def _changed_since_planned(self, run: Run, known: dict[str, list[tuple[str, str]]]) -> list[tuple[str, str]]:
        from distill.experiments.sweep import plan

        if self._read is None:
            return []
        key = _without_seed(run)
        if key not in known:
            try:
                now = self._read(run, self._arguments(run))
            except (ValueError, OSError):  # the checks say it
                return []
            changed = plan.inputs(self._sweep.directory).changed_rows(now)
            paths = self._values_of(run).get("FILES")
            known[key] = [(named_rows(one, paths), "") for one in changed]
        return known[key]

    def resolve(self, sweep: Sweep) -> list[Run]:
        """Returns the runs of the sweep with the steps of their budgets."""
        return resolved(sweep, lambda run: self._described(run)[0])

    def probes(self) -> list[Run]:
        """Returns runs of a search for its checks; none for a design whose points are known."""
        if self._sweep.search is None:
            return []
        from distill.experiments.sweep import search

        return search.probes(self._sweep)

    def bounds(self, runs: Sequence[Run], topology: str) -> dict[str, Bound]:
        """Compiles the training step of each run for a TPU slice; runs with the same shapes share one step.

        Args:
          runs: the runs.
          topology: the slice; or several, separated by commas, of which a run takes the first that its mesh fills.

        Raises:
          ValueError: libtpu is not installed, it does not know the topology, or a mesh does not fill it.
        """
        from distill.precompile import estimates, steps
        from distill.precompile.topology import open_topology

        targets = [open_topology(name) for name in topology.split(",")]
        known: dict[str, Bound] = {}
        out: dict[str, Bound] = {}
        for run in runs:
            if run.name in out:
                continue
            step_run = steps.Run.from_arguments(self._arguments(run))
            loop = dataclasses.replace(step_run.loop, seed=0, train_steps=1)
            key = repr((step_run.model, step_run.layout, step_run.mesh, step_run.loss, loop))
            if key not in known:
                target = next((one for one in targets if _fills(step_run.mesh, one)), targets[0])
                step = steps.compile_step("train", step_run, target)
                found = estimates.estimate(step, step_run, target.chip, len(target.devices))
                seconds = found["roofline"]["seconds"]
                known[key] = Bound(seconds, target.num_chips, found["peak_hbm_bytes"], found["fits"])
            out[run.name] = known[key]
        return out


def _without_seed(run: Run) -> str:
    """A run's configuration as a key, the same for runs that differ in the seed only."""
    gin_files, bindings = run.configuration()
    return json.dumps((gin_files, [text for text in bindings if not text.startswith(f"{SEED} = ")]))


def _by_ratio(bindings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Bindings in which rates of one ratio are equal: a mixture with rates 2 and 2 is that with 1 and 1."""
    label, rationale = (bindings.get(name) for name in RATES)
    if isinstance(label, int | float) and isinstance(rationale, int | float) and rationale > 0:
        return {**bindings, RATES[0]: label / rationale, RATES[1]: 1.0}
    return bindings


def _shown(one: run_settings.Difference) -> str:
    return f"has {one.name} {same_sweep.had(one.before, one.after)}"


def _moved(bindings: Mapping[str, Any]) -> dict[str, Any]:
    """Bindings in which the parameters of a common start have no folder: a sweep directory may be moved."""
    own = {name: START for name, value in bindings.items() if posixpath.basename(str(value)) == START}
    return {**bindings, **own}


def _fills(mesh: Any, target: Any) -> bool:
    """Whether a run's mesh has exactly the devices of a slice."""
    from distill.precompile.topology import mesh_shape

    try:
        mesh_shape(mesh, len(target.devices), target.name)
    except ValueError:
        return False
    return True


def table(
    runs: Sequence[Run], costs: Mapping[str, Cost], numbers: Mapping[str, int] = {}, *, only_checked: bool = False
) -> Table:
    """Returns one row per run: its number (of ``numbers``, else its position), levels, updates, operations and state.

    ``only_checked``: the runs are the probes of a search, which are never trained.
    """
    names = list(dict.fromkeys(axis for run in runs for axis in run.values))
    out = Table()
    for name in ("run", *names):
        out.add_column(name, overflow="fold")
    for name in ("steps", "FLOPs/step", "reached"):
        out.add_column(name, justify="right")
    out.add_column("state")
    for number, run in enumerate(runs):
        cost = costs[run.name]
        levels = (run.values.get(name, "–") for name in names)
        reached = files.reached_step(run.directory)
        out.add_row(
            str(numbers.get(run.name, number)),
            *levels,
            str(cost.steps),
            f"{cost.flops:.3g}",
            "" if reached is None else str(reached),
            "only checked" if only_checked else outcomes.state(run, held=False),
        )
    return out


def lines_of_runs(runs: Sequence[Run], lines: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the lines of runs by name, each once, with the runs that it is about unless it is about all of them."""
    about: dict[str, list[str]] = {}
    for run in runs:
        for text in lines.get(run.name, ()):
            levels = ", ".join(f"{axis}={level}" for axis, level in run.values.items() if axis != SEED)
            about.setdefault(text, []).append(levels or run.name)
    number = sum(run.name in lines for run in runs)
    return [
        text if len(names) == number else f"{with_more(list(dict.fromkeys(names)))}: {text}"
        for text, names in about.items()
    ]


def bound_lines(bounds: Mapping[str, Bound]) -> list[str]:
    """Returns one line per distinct step: how many runs have it, its least time and its memory."""
    counts: dict[Bound, list[str]] = {}
    for name, bound in bounds.items():
        counts.setdefault(bound, []).append(name)
    return [
        f"{with_more(names)}: ≥ {bound.seconds * 1e3:.1f} ms per step on "
        f"{bound.chips} chips, {bound.peak_bytes / 2**30:.2f} GiB per device{'' if bound.fits else ', which do not fit'}"
        for bound, names in counts.items()
    ]
