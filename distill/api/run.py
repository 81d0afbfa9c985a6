"""A configured training run: gin files resolved into the arguments of :func:`distill.training.train.train`."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from distill.api import (
    configuration,
    first_checks,
    gin_values,
    keywords,
    remedies,
    run_checks,
    tensorflow_log,
    value_types,
)
from distill.api.gin_files import without_gin
from distill.counting import counted, form
from distill.inference import model_directory, own_files
from distill.inference.decoder import DecodeConfig
from distill.inference.student import RowFormat
from distill.inference.student import Student as Description
from distill.sharding.partitioning import MeshConfig
from distill.tasks import metrics
from distill.terminal import Terminal

if TYPE_CHECKING:
    from distill.api.student import Student
    from distill.tasks.registration import Registered
    from distill.training.train import TrainResult


_PLACE = "the arguments"
_FAR = 2  # times more or less than the share of rows to hold out is worth a warning


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, configured and not started.

    Attributes:
      text: the resolved configuration, as ``config.gin`` will hold it.
      bindings: its bindings by name, macros included.
      arguments: of :func:`distill.training.train.train`, ``model_dir`` among them.
      registration: the arguments of :func:`distill.tasks.registration.register`.
      spelling: macro → Python argument, for messages; empty where the run was configured by macros.
    """

    text: str = dataclasses.field(repr=False)
    bindings: Mapping[str, Any] = dataclasses.field(repr=False)
    arguments: Mapping[str, Any]
    registration: Mapping[str, Any]
    spelling: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def current(cls) -> "Run":
        """The run of the configuration that was parsed last.

        Raises:
          ConfigurationError: the configuration configures no training run.
        """
        text = configuration.resolved()
        with first_checks.naming_example(configuration.macro("DATASET_NAME")), _without_gin():
            return cls(
                text,
                configuration.bindings_of(text),
                configuration.training_arguments(),
                configuration.registration_arguments(),
            )

    @property
    def directory(self) -> str:
        """The model directory."""
        return self.arguments["model_dir"]

    def register(self) -> "Registered":
        """Registers the run's data set with SeqIO; returns the names of its tasks."""
        from distill.tasks import registration

        return registration.register(**self.registration)

    def describe(self) -> tuple[Description | None, bytes | None]:
        """The student as data, and the contents of its vocabulary's file.

        Returns:
          The contents of ``student.json`` and ``vocabulary.model`` (None for bytes). Both are None if the vocabulary is
          neither SentencePiece nor bytes, which serving cannot read.
        """
        from distill.tasks import registration, vocabularies

        given = self.registration
        vocabulary = given.get("vocabulary", "t5")
        vocabulary = vocabularies.load(vocabulary) if isinstance(vocabulary, str) else vocabulary
        try:
            model = vocabularies.model_bytes(vocabulary)
        except ValueError:
            return None, None
        dataset, validation = given["dataset"], self.arguments.get("validation")
        task = validation.task_name if validation is not None else self.arguments["data"].mixture_or_task_name
        student = Description(
            self.arguments["model"],
            "bytes" if model is None else "sentencepiece",
            vocabulary.extra_ids,
            form=task.removeprefix(f"{dataset.name}_"),
            label_prefix=given.get("label_prefix", registration.LABEL_PREFIX),
            rationale_prefix=given.get("rationale_prefix", registration.RATIONALE_PREFIX),
            separator=dataset.separator,
            encoder_bos=given.get("encoder_bos", False),
            input_field=getattr(dataset.source, "input_field", "input"),
            rows=RowFormat.of(dataset.source),
            dataset=dataset.name,
            answer=dataset.answer,
            trained_input_len=self.arguments["data"].layout.encoder_length,
            metrics=tuple(map(metrics.name_of, given.get("label_metrics", ()))),
            decode=DecodeConfig() if validation is None else validation.decode,
            mesh=self.arguments.get("mesh") or MeshConfig(),
            trained_in=os.getcwd(),
        )
        return student, None if model is None else vocabularies.without_extra_ids(model, vocabulary.extra_ids)

    def begin(self, *, writes: bool = True) -> list[str]:
        """Writes ``config.gin``, ``student.json`` and the vocabulary into the model directory.

        Args:
          writes: whether this process writes; all processes of a run check.

        Returns:
          Lines for the user.

        Raises:
          ValueError: the directory holds a run with other settings.
        """
        existing = epath.Path(self.directory) / model_directory.CONFIG
        before = configuration.bindings_of(existing.read_text(), str(existing)) if existing.exists() else None
        student, vocabulary = self.describe()
        return model_directory.begin(
            self.directory, self.text, before, self.bindings, student, vocabulary, writes=writes
        )

    @keywords.checked(("distill.training.train", "train"))
    def train(self, *, quiet: bool = False, **overrides: Any) -> "Student":
        """Trains, or continues an unfinished run, and returns the student.

        Args:
          quiet: print warnings only.
          **overrides: arguments of :func:`distill.training.train.train` that replace the configured ones, such as an
            ``optimizer`` or callbacks. ``config.gin`` does not record them.

        Raises:
          TypeError: an override of another type, or ``callbacks`` that are no list of callbacks.
          ValueError: the directory holds a run with other settings, or settings or data that do not fit together.
          KeyboardInterrupt: interrupted; a checkpoint was saved, and the same call continues from it.
          distill.exit_codes.Stopped: stopped by another signal; likewise.
        """
        from distill import exit_codes
        from distill.api import student

        others = "settings" if self.spelling else "bindings"
        with remedies.speaking_python(self.spelling, others):
            result = self.run(quiet=quiet, **overrides)
        if result.stopped not in (None, "early"):
            advice = exit_codes.CONTINUE if result.step else exit_codes.NOTHING_SAVED
            message = f"stopped by {result.stopped} at step {result.step}; {advice.replace('command', 'call')}"
            raise (KeyboardInterrupt if result.stopped == "SIGINT" else exit_codes.Stopped)(message)
        return student.load(self.directory)

    def run(self, *, quiet: bool = False, **overrides: Any) -> "TrainResult":
        """Trains, or continues an unfinished run; ``distill train`` calls this.

        A run that fails before its training begins leaves a new or empty directory as it was.

        Args:
          quiet: print warnings only.
          **overrides: see :meth:`train`.

        Returns:
          How the run ended; ``stopped`` names a signal that stopped it.

        Raises:
          TypeError, ValueError: see :meth:`train`.
        """
        import jax

        from distill.precompile import step_costs
        from distill.training import callbacks, train

        keywords.check_types(value_types.annotations(train.train), overrides)
        callbacks.check(overrides.get("callbacks", ()))
        own_files.check(self.directory)
        first = jax.process_index() == 0
        terminal = Terminal(active=first, quiet=quiet)
        with (
            first_checks.naming_example(self.bindings.get("DATASET_NAME")),
            model_directory.undone_on_failure(self.directory, writes=first),
            train.lock_directory(epath.Path(self.directory)) as lock,
            model_directory.start_undone_on_failure(self.directory, writes=first),
        ):
            self.register()
            given = {**self.arguments, **overrides}
            self._introduce(terminal, given, writes=first)
            names = [name for name, value in overrides.items() if value]
            if names and (epath.Path(self.directory) / model_directory.RESULT).exists():
                without = f"arguments without effect: {', '.join(names)}"
                terminal.warn(f"{self.directory} is finished; nothing is trained; {without}")
            return train.train(**{"cost_model": step_costs.of_run(given), **given}, lock=lock, quiet=quiet)

    def introduce(self, terminal: Terminal, *, writes: bool) -> None:
        """:meth:`begin`, and says its lines, the :meth:`advice`, and how many rows are held out of the registered tasks.

        Raises:
          ValueError: as :meth:`begin`; more steps do not continue the run; or it is finished, and its rows have changed.
        """
        self._introduce(terminal, self.arguments, writes=writes)

    def _introduce(self, terminal: Terminal, given: Mapping[str, Any], *, writes: bool) -> None:
        """:meth:`introduce` of a run that trains with the arguments ``given``."""
        lines = self.begin(writes=writes)
        run_checks.check_longer(self.directory, given)
        run_checks.check_finished(self.directory, self.arguments)
        for line in lines:
            terminal.say(line)
        advice = self.advice()
        with terminal.stage("reading the validation rows", announce=False):
            held_out = self.held_out()
        for line in advice:
            terminal.introduce(line)
        for number, line in enumerate(held_out):
            terminal.introduce(line, warns=number > 0)

    def held_out(self) -> list[str]:
        """A line about the validation rows if they are taken from the training rows; none otherwise.

        A warning follows if their share is far from the configured one. The tasks must be registered. Reads the rows,
        unless the run is complete.
        """
        from distill.tasks import corpus, registration

        dataset, validation = self.registration["dataset"], self.arguments.get("validation")
        if validation is None or validation.split != "validation" or not getattr(dataset, "cuts_validation", False):
            return []
        if (epath.Path(self.directory) / model_directory.RESULT).exists():
            return []
        try:
            task = registration.get(validation.task_name)
            counts = registration.report(getattr(task, "tasks", [task])[0].name, "validation").held_out
        except (ValueError, OSError):  # the training raises it, unless it finds another mistake first
            return []
        if counts is None:
            return []
        noun = "passage" if isinstance(dataset, corpus.Corpus) else "row"
        number, every = counts.rows, counted(counts.of_rows, noun)
        inputs, of_inputs = counts.inputs()
        alike = f", {inputs:,} of {of_inputs:,} different inputs," if of_inputs < counts.of_rows else ""
        held = f"{number:,} of {every} of the training data{alike} {form(number, 'is', 'are')} held out for validation"
        lines = [f"no validation rows are given: {held} and not trained on"]
        share, wanted = number / counts.of_rows, dataset.validation_fraction
        if abs(number - wanted * counts.of_rows) > 1 and not wanted / _FAR <= share <= wanted * _FAR:
            lines.append(
                f"{share:.1%} of the training data is held out for validation, and validation_fraction is {wanted:g}: "
                f"{noun}s with the same input are held out together, and few different inputs are not divided evenly. "
                "Give validation rows, FILES={'train': …, 'validation': …}"
            )
        return lines

    def advice(self) -> list[str]:
        """Lines about settings that are legal and most likely not meant."""
        return run_checks.advice(self.arguments, self.registration)


@keywords.checked()
def from_gin(
    files: Sequence[str] | str,
    bindings: Sequence[str] | Mapping[str, Any] = (),
    *,
    search_paths: Sequence[str] = (),
    allowed: Sequence[str] = (),
) -> Run:
    """The training run that gin files configure; ``distill train`` runs the same one.

    The caller's own gin configuration is left unchanged.

    Args:
      files: gin files in order; later ones override earlier ones. Shipped files are found by their names, such as
        ``gin/recipes/quickstart.gin``.
      bindings: ``{"MODEL_DIR": "runs/a"}`` or ``["MODEL_DIR = 'runs/a'"]``; they override the files.
      search_paths: more folders to look for gin files in.
      allowed: modules that the files may import in addition to the trusted ones.

    Returns:
      The :class:`Run`. ``from_gin(…).train()`` trains; ``from_gin(…).arguments`` are the arguments of the training.

    Raises:
      distill.api.configuration.ConfigurationError: a mistake in the configuration; one line each.
    """
    with remedies.speaking_python({}, "bindings"):
        return configured([files] if isinstance(files, str) else files, bindings, search_paths, allowed, trains=True)


def configured(
    files: Sequence[str],
    bindings: Sequence[str] | Mapping[str, Any],
    search_paths: Sequence[str] = (),
    allowed: Sequence[str] = (),
    *,
    trains: bool = False,
) -> Run:
    """:func:`from_gin` with the command line's wording of errors.

    Args:
      files, bindings, search_paths, allowed: see there.
      trains: whether a new run must have rows for all splits that it reads; they may be written later.
    """
    if isinstance(bindings, Mapping):
        bindings = [f"{name} = {gin_values.written(name, value)}" for name, value in bindings.items()]
    first_checks.check(list(files), list(bindings), search_paths, trains=trains, reads=False, place=_PLACE)
    tensorflow_log.import_quietly()
    with configuration.own():
        configuration.parse(list(files), list(bindings), search_paths, allowed, place=_PLACE)
        return Run.current()


@contextlib.contextmanager
def _without_gin() -> Iterator[None]:
    """Errors without gin's remarks on the calls that they passed through."""
    try:
        yield
    except FileNotFoundError as error:
        if without_gin(str(error)) == str(error):
            raise
        raise FileNotFoundError(without_gin(str(error))) from None
    except ValueError as error:
        raise configuration.ConfigurationError(without_gin(str(error))) from None
