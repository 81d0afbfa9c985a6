"""A configured training run: gin files resolved into the arguments of :func:`distill.training.train.train`."""

import contextlib
import dataclasses
import os
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gin
from etils import epath

from distill.api import configuration, first_checks, keywords, remedies, tensorflow_log, value_types
from distill.api.gin_files import without_gin
from distill.counting import counted, form
from distill.inference import model_directory, own_files
from distill.inference.decoder import DecodeConfig
from distill.inference.student import RowFormat
from distill.inference.student import Student as Description
from distill.sharding.partitioning import MeshConfig
from distill.tasks import metrics, task_ids
from distill.terminal import Terminal
from distill.validation import quoted

if TYPE_CHECKING:
    from distill.api.student import Student
    from distill.tasks.registration import Registered
    from distill.training.train import TrainResult


_PLACE = "the arguments"
_FAR = 2  # times more or less than the share of rows to hold out is worth a warning
_ROWS_MULTIPLE = 128  # of a token table that is sharded over devices


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

    def _check_longer(self, given: Mapping[str, Any]) -> None:
        """Refuses more steps for a run that its patience has ended, before its data is read.

        Raises:
          ValueError: the training would end at once.
        """
        from distill.checkpoints import schemas
        from distill.checkpoints.manager import BEST, LATEST
        from distill.training.config import Progress

        root, validation = epath.Path(self.directory), given.get("validation")
        newest = own_files.newest_step(root / LATEST)
        if newest is None:
            return
        try:
            saved = Progress(**schemas.read_json(root / LATEST / str(newest), "progress"))
        except (ValueError, TypeError, OSError):  # the training reads an older step, or says it
            return
        agrees = saved.higher_is_better == Progress.of(validation).higher_is_better
        if agrees and (root / BEST / str(saved.best_step)).exists():  # else the training selects, and counts, anew
            saved.limit(given["loop"].train_steps, validation.patience if validation else None)

    def _check_finished(self) -> None:
        """Checks that a finished run, which is not trained again, is the one that is configured.

        Raises:
          ValueError: it was trained or scored on other rows.
        """
        from distill.training import provenance, record

        root = epath.Path(self.directory)
        if not (root / model_directory.RESULT).exists():
            return
        try:
            before = record.read(root).data
        except (FileNotFoundError, ValueError):  # of an earlier version
            return
        if changed := provenance.changed_rows(before, self.arguments["data"], self.arguments.get("validation")):
            raise ValueError(
                f"{root} is finished, and its {' and '.join(changed)} rows have changed since it was trained: restore "
                "them, or give another MODEL_DIR to train on the new ones"
            )

    def introduce(self, terminal: Terminal, *, writes: bool) -> None:
        """:meth:`begin`, and says its lines, the :meth:`advice`, and how many rows are held out of the registered tasks.

        Raises:
          ValueError: as :meth:`begin`; more steps do not continue the run; or it is finished, and its rows have changed.
        """
        self._introduce(terminal, self.arguments, writes=writes)

    def _introduce(self, terminal: Terminal, given: Mapping[str, Any], *, writes: bool) -> None:
        """:meth:`introduce` of a run that trains with the arguments ``given``."""
        lines = self.begin(writes=writes)
        self._check_longer(given)
        self._check_finished()
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
        validation = self.arguments.get("validation")
        unused = [] if validation is None else validation.decode.unused()
        return [*self._idle_weights(), *unused, *self._oversized()]

    def _idle_weights(self) -> list[str]:
        """A line if weights of two tasks are set, and one task is trained."""
        task, loss = self.arguments["data"].mixture_or_task_name, self.arguments["loss"]
        if not task_ids.one_task(task):
            return []
        given = {"LAMBDA": loss.lam, "ALPHA": loss.alpha}
        idle = [f"{name}={value:g}" for name, value in given.items() if isinstance(value, (int, float)) and value != 1]
        return [f"{task} is one task: {text} changes nothing" for text in idle]

    def _oversized(self) -> list[str]:
        """Lines if the table and the windows are those of another vocabulary."""
        from distill.model import configs
        from distill.tasks import vocabularies

        model, given = self.arguments["model"], self.registration.get("vocabulary", "t5")
        vocabulary = vocabularies.load(given) if isinstance(given, str) else given
        size = -(-vocabulary.vocab_size // _ROWS_MULTIPLE) * _ROWS_MULTIPLE
        if self.arguments.get("initial_checkpoint_path") is not None or model.vocab_size < 2 * size:
            return []
        fewer = (model.vocab_size - size) * configs.parameters_per_id(model)
        lines = [
            f"the vocabulary has {vocabulary.vocab_size:,} ids and the student's table {model.vocab_size:,} rows: "
            f"--gin.VOCAB_SIZE={size} saves {fewer:,} parameters"
        ]
        if type(vocabulary).__name__ == "ByteVocabulary":
            lengths = self.arguments["data"].task_feature_lengths
            lines.append(
                f"the vocabulary is bytes: TASK_FEATURE_LENGTHS counts bytes, now {lengths['inputs']} for inputs and "
                f"{lengths['targets']} for targets; fit it to your rows (`distill data` measures them)"
            )
        return lines


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
        bindings = [f"{name} = {_written(name, value)}" for name, value in bindings.items()]
    first_checks.check(list(files), list(bindings), search_paths, trains=trains, reads=False, place=_PLACE)
    tensorflow_log.import_quietly()
    with _own_gin():
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


def _written(name: str, value: Any) -> str:
    """A Python value as gin text; a text that starts with ``@`` or ``%`` stays a reference."""
    if isinstance(value, str) and value.startswith(("@", "%")):
        return value
    value = _plain(value)
    text = repr(value)
    try:
        same = gin.config_parser.ConfigParser(text, _Literal()).parse_value() == value  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, tokenize.TokenError):
        same = False
    if not same:
        raise configuration.ConfigurationError(
            f"--gin.{name} must be a finite number, a text, or a list, tuple or dict of them; got {quoted(value)}; "
            "train(…) takes other objects as further arguments"
        )
    return text


def _plain(value: Any) -> Any:
    """A value with texts in place of paths, and Python's numbers in place of NumPy's, inside of collections too."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value_types.plain_number(value)


class _Literal(gin.config_parser.ParserDelegate):  # type: ignore[attr-defined,misc]
    """Refuses references: only literals are accepted."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Any:
        raise ValueError("a reference")

    def macro(self, macro_name: str) -> Any:
        raise ValueError("a macro")


@contextlib.contextmanager
def _own_gin() -> Iterator[None]:
    """Lets gin's global configuration be replaced, and puts back the caller's."""
    state = [getattr(gin.config, name) for name in ("_CONFIG", "_SINGLETONS", "_IMPORTS", "_OPERATIVE_CONFIG")]
    saved = [container.copy() for container in state]
    names = configuration.exchange_names()
    locked = gin.config_is_locked()
    try:
        yield
    finally:
        for container, contents in zip(state, saved):
            container.clear()
            container.update(contents)
        configuration.exchange_names(names)
        gin.config._set_config_is_locked(locked)
