"""A build on Apache Beam: ranges of rows are tokenised in parallel, then shards are written in parallel.

The driver, the process of ``distill cache``, reads the rows once in order and writes them to files that the workers see.
Workers tokenise a file at a time. When the number of examples of every file is known, each shard is copied from the files
of tokens that it overlaps. So the shards hold the same records as those of a local build, in the same order.

Apache Beam is imported only when a pipeline is made: the extra ``beam`` installs it.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from distill import validation
from distill.data import examples
from distill.data.cache import manifest, ranges, writing
from distill.tasks import feeding, registration

OnProgress = Callable[[str, str, int, int], None]
RUNNERS = {
    # DirectRunner first tries to download the Prism runner, and runs this one if it cannot.
    "direct": "FnApiRunner",
    "dataflow": "DataflowRunner",
    "flink": "FlinkRunner",
}
_CONTINUE = "finished ranges and shards are kept; run the same command again to continue"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where a pipeline runs.

    Attributes:
      runner: a key of :data:`RUNNERS`; Beam's names, such as ``DataflowRunner``, are accepted too.
      options: Beam's options as ``name=value``, or ``name`` for a switch.
      rows_per_range: rows that a worker tokenises at a time, and holds in memory.
    """

    runner: str = "direct"
    options: tuple[str, ...] = ()
    rows_per_range: int = 20_000

    @classmethod
    def of(cls, runner: str | None, options: str | None) -> "Settings | None":
        """Reads the flags of ``distill cache``; None if neither is given.

        >>> Settings.of(None, "runner=DataflowRunner,project=mine")
        Settings(runner='dataflow', options=('project=mine',), rows_per_range=20000)

        Raises:
          ValueError: an unknown runner, two runners, or an empty option.
        """
        if runner is None and options is None:
            return None
        given = [text.strip().removeprefix("--") for text in (options or "").split(",")] if options else []
        if not all(text.partition("=")[0] for text in given):
            raise ValueError(f"--beam_pipeline_options expects name=value,name=value; got {options!r}")
        named = [text.partition("=")[2] for text in given if text.partition("=")[0] == "runner"]
        names = {_runner(name) for name in (*named, *([runner] if runner is not None else []))}
        if len(names) > 1:
            raise ValueError(f"--beam_runner and --beam_pipeline_options name two runners: {', '.join(sorted(names))}")
        rest = tuple(text for text in given if text.partition("=")[0] != "runner")
        return cls(runner=names.pop() if names else "direct", options=rest)

    def check(self, output: epath.PathLike) -> Any:
        """Checks the options without a network; returns Beam's ``PipelineOptions``.

        Raises:
          ValueError: an option is unknown, missing or out of its range, the runner's workers cannot see ``output``, or
            Apache Beam is not installed.
        """
        beam = _beam()
        flags = [f"--runner={RUNNERS[self.runner]}", *(f"--{text}" for text in self.options)]
        options = beam.options.pipeline_options.PipelineOptions(flags)
        usage = io.StringIO()
        try:
            with contextlib.redirect_stderr(usage), _quiet():
                known = options.get_all_options()
                everything = options.get_all_options(retain_unknown_options=True)
        except SystemExit:
            text = (usage.getvalue().strip().splitlines() or ["cannot be read"])[-1].partition("error: ")[2]
            raise ValueError(f"--beam_pipeline_options: {text}") from None
        for name in sorted(set(everything) - set(known)):
            hint = validation.did_you_mean(name, known)
            raise ValueError(f"--beam_pipeline_options: Apache Beam has no option {name!r}{hint}")
        where = epath.Path(output)
        if self.runner == "dataflow":
            missing = [name for name in ("project", "region", "temp_location") if not known[name]]
            if missing:
                raise ValueError(f"--beam_runner=dataflow needs --beam_pipeline_options with {', '.join(missing)}")
            if manifest.is_local(where):
                raise ValueError(f"--beam_runner=dataflow needs --output=gs://…, which its workers see; got {where}")
        validator = importlib.import_module("apache_beam.options.pipeline_options_validator")
        with _quiet():
            problems = validator.PipelineOptionsValidator(options, self._create()).validate()
        if problems:
            raise ValueError(f"--beam_pipeline_options: {'; '.join(problem.rstrip('.') for problem in problems)}")
        return options

    def _create(self) -> Any:
        try:
            return importlib.import_module("apache_beam.runners.runner").create_runner(RUNNERS[self.runner])
        except ImportError as error:
            raise ValueError(f"--beam_runner={self.runner} needs: pip install 'apache-beam[gcp]' ({error})") from error


def _runner(name: str) -> str:
    short = name.lower().removesuffix("runner")
    if short not in RUNNERS:
        raise ValueError(f"--beam_runner must be one of {', '.join(RUNNERS)}; got {name!r}")
    return short


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Beam's warnings of optional libraries, each of which is no fault."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _beam() -> Any:
    """Returns the module ``apache_beam``."""
    try:
        with _quiet():
            return importlib.import_module("apache_beam")
    except ModuleNotFoundError as error:
        if error.name != "apache_beam":
            raise
        raise ValueError(
            "building a cache with Apache Beam needs the extra: pip install 'distill-step-by-step[beam]'"
        ) from None


def pipeline(plan: ranges.Plan, options: Any) -> Any:
    """Returns the ``apache_beam.Pipeline`` of a plan; it has not run.

    Raises:
      ValueError: the data set cannot be sent to other processes.
    """
    beam = _beam()
    try:
        importlib.import_module("apache_beam.internal.pickler").dumps(plan)
    except Exception as error:  # of any object of the data set
        raise ValueError(
            f"the data set cannot be sent to workers, since a part of it cannot be pickled: {error}; define its functions "
            "in a module that workers can import"
        ) from error
    made = beam.Pipeline(options=options)
    rows = [(number, place) for number, part in enumerate(plan.parts) for place in range(part.ranges)]
    shards = [(number, shard) for number, part in enumerate(plan.parts) for shard in range(part.most_shards)]
    tokens = (
        made
        | "ranges" >> beam.Create(rows)
        | "distribute ranges" >> beam.Reshuffle()
        | "tokenise" >> beam.Map(ranges.tokenise, plan)
    )
    _ = (
        made
        | "shards" >> beam.Create(shards)
        | "distribute shards" >> beam.Reshuffle()
        | "write shards" >> beam.Map(ranges.write_shard, beam.pvalue.AsList(tokens), plan)
    )
    return made


def _run(made: Any) -> None:
    """Runs a pipeline to its end.

    Raises:
      ValueError: it failed; the text is the worker's error.
    """
    try:
        with _quiet():
            result = made.run()
            state = result.wait_until_finish()
    except Exception as error:  # of a worker, in a text with its traceback
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ValueError(f"Apache Beam: {lines[-1]:.800}; {_CONTINUE}") from error
    if state != "DONE":
        raise ValueError(f"Apache Beam: the pipeline ended in state {state}; {_CONTINUE}")


def describe(settings: Settings, output: epath.PathLike, parts: Sequence[tuple[str, str]], shards: int) -> list[str]:
    """Checks and makes a pipeline without reading a row; returns lines that describe it.

    Args:
      settings: where it would run.
      output: the cache's folder.
      parts: task and split.
      shards: largest number of files per split.

    Raises:
      ValueError: as :meth:`Settings.check` and :func:`pipeline`.
    """
    options = settings.check(output)
    plan = ranges.Plan(
        stage=str(output),
        register=registration.call_of(parts[0][0]),
        parts=tuple(ranges.Part(name, split, 1, 1, shards) for name, split in parts),
        formats=writing.FORMATS,
    )
    with _quiet():
        made = pipeline(plan, options).to_runner_api()
    names = {step.unique_name.partition("/")[0] for step in made.components.transforms.values()}
    steps = {name for name in names if name and not name.startswith("ref_")}  # Beam's root has such a name
    return [
        f"runner: {RUNNERS[settings.runner]}",
        f"options: {', '.join(settings.options) or 'none'}",
        f"steps: {', '.join(sorted(steps))}",
        f"ranges: one per {settings.rows_per_range:,} rows of each task and split",
        f"shards: at most {shards:,} of each of {len(parts)} splits, {shards * len(parts):,} in all",
    ]


def _tell(on_progress: OnProgress, name: str, split: str, records: int, number: int) -> None:
    on_progress(name, split, number, records)


def write(
    settings: Settings,
    stage: epath.Path,
    parts: Sequence[tuple[str, str]],
    shards: int,
    formats: Sequence[str],
    on_progress: OnProgress,
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """Writes the shards and indexes of some splits.

    Args:
      settings: where the pipeline runs.
      stage: the folder to build in, which all workers see.
      parts: task and split.
      shards: largest number of files per split.
      formats: some of :data:`distill.data.cache.writing.FORMATS`.
      on_progress: called while rows are written for the workers, with task, split, rows so far, and all rows.

    Yields:
      Each part with its manifest entry.

    Raises:
      ValueError: the pipeline failed; its finished ranges and shards are kept.
    """
    if not parts:
        return
    options = settings.check(stage)
    source = registration.get(parts[0][0]).source
    assert isinstance(source, feeding.RecordDataSource)
    written: dict[str, tuple[int, int]] = {}
    planned = []
    for name, split in parts:
        records = source.num_input_examples(split)
        if split not in written:
            rows = feeding.rows(source.dataset, split, source.selection)
            written[split] = ranges.spill(
                stage,
                split,
                rows,
                settings.rows_per_range,
                functools.partial(_tell, on_progress, name, split, records),
            )
        number, files = written[split]
        size = writing.per_shard(records, shards)
        planned.append(ranges.Part(name, split, files, size, -(-number // size)))
    plan = ranges.Plan(str(stage), registration.call_of(parts[0][0]), tuple(planned), tuple(formats))
    _run(pipeline(plan, options))
    for part in planned:
        index = writing.Index(writing.index_path(stage, part.task, part.split))
        for lengths in ranges.index_rows(stage, part):
            index.add(lengths)
        examples.warn_of_rows_left_out(registration.get(part.task), part.split, index.examples)
        files_of = {form: ranges.shard_entries(stage, part, index.examples, form) for form in formats}
        yield (part.task, part.split), writing.entry(stage, part.task, part.split, index, files_of)
