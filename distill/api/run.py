"""A configured training run: gin files resolved into the arguments of :func:`distill.training.train.train`."""

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gin
from etils import epath

from distill.api import configuration
from distill.inference import model_directory
from distill.inference.decoder import DecodeConfig
from distill.inference.student import Student as Description
from distill.sharding.partitioning import MeshConfig

if TYPE_CHECKING:
    from distill.api.student import Student
    from distill.tasks.registration import Registered
    from distill.training.train import TrainResult


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, configured and not started.

    Attributes:
      text: the resolved configuration, as ``config.gin`` will hold it.
      bindings: its bindings by name, macros included.
      arguments: of :func:`distill.training.train.train`, ``model_dir`` among them.
      registration: the arguments of :func:`distill.tasks.registration.register`.
    """

    text: str = dataclasses.field(repr=False)
    bindings: Mapping[str, Any] = dataclasses.field(repr=False)
    arguments: Mapping[str, Any]
    registration: Mapping[str, Any]

    @classmethod
    def current(cls) -> "Run":
        """The run of the configuration that was parsed last.

        Raises:
          ConfigurationError: the configuration configures no training run.
        """
        from distill.tasks import registration
        from distill.training import train

        text = configuration.resolved()
        return cls(
            text,
            configuration.bindings_of(text),
            configuration.arguments_of(train.train),
            configuration.arguments_of(registration.register),
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
            input_field=getattr(dataset.source, "input_field", "input"),
            dataset=dataset.name,
            answer=dataset.answer,
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

    def train(self, *, quiet: bool = False, **overrides: Any) -> "Student":
        """Trains, or continues an unfinished run, and returns the student.

        Args:
          quiet: print warnings only.
          **overrides: arguments of :func:`distill.training.train.train` that replace the configured ones, such as an
            ``optimizer`` or callbacks. ``config.gin`` does not record them.

        Raises:
          ValueError: the directory holds a run with other settings, or settings or data that do not fit together.
          KeyboardInterrupt: interrupted; a checkpoint was saved, and the same call continues from it.
          distill.exit_codes.Stopped: stopped by another signal; likewise.
        """
        from distill.api import student

        self.run(quiet=quiet, **overrides)
        return student.load(self.directory)

    def run(self, *, quiet: bool = False, **overrides: Any) -> "TrainResult":
        """:meth:`train` without loading the student; returns how the run ended."""
        import jax

        from distill import exit_codes
        from distill.precompile import step_costs
        from distill.training import train

        first = jax.process_index() == 0
        with train.lock_directory(epath.Path(self.directory)) as lock:
            for line in self.begin(writes=first):
                if first and not quiet:
                    print(line, file=sys.stderr)
            self.register()
            given = {"cost_model": step_costs.measure, **self.arguments, **overrides}
            result = train.train(**given, lock=lock, quiet=quiet)
        if result.stopped not in (None, "early"):
            message = f"stopped by {result.stopped} at step {result.step}; the same call continues from there"
            raise (KeyboardInterrupt if result.stopped == "SIGINT" else exit_codes.Stopped)(message)
        return result


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
    if isinstance(files, str):
        files = [files]
    if isinstance(bindings, Mapping):
        bindings = [f"{name} = {_written(name, value)}" for name, value in bindings.items()]
    with _own_gin():
        configuration.parse(list(files), list(bindings), search_paths, allowed)
        try:
            return Run.current()
        except FileNotFoundError as error:
            raise FileNotFoundError(_without_gin(str(error))) from None
        except ValueError as error:
            raise configuration.ConfigurationError(_without_gin(str(error))) from None


def _without_gin(message: str) -> str:
    """A message without gin's remarks on the calls that it passed through."""
    return re.sub(r"\n\s*In call to configurable .*", "", message).strip()


def _written(name: str, value: Any) -> str:
    """A Python value as gin text; a text that starts with ``@`` or ``%`` stays a reference."""
    if isinstance(value, str) and value.startswith(("@", "%")):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    text = repr(value)
    try:
        same = gin.config_parser.ConfigParser(text, _Literal()).parse_value() == value  # type: ignore[attr-defined]
    except (SyntaxError, ValueError):
        same = False
    if not same:
        raise configuration.ConfigurationError(
            f"{name} must be a number, a text, or a list, tuple or dict of them; got {value!r:.80}; give other objects to "
            "Run.train(…)"
        )
    return text


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
    locked = gin.config_is_locked()
    try:
        yield
    finally:
        for container, contents in zip(state, saved):
            container.clear()
            container.update(contents)
        gin.config._set_config_is_locked(locked)
