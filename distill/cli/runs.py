"""What the commands share that act on a run: its configuration, its processes, and the files that describe its student."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.inference.student import Student

CONFIG = "config.gin"


def import_quietly() -> None:
    """Imports TensorFlow while nobody listens: it writes to the terminal before it can be told not to."""
    sys.stderr.flush()
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import seqio  # noqa: F401
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def parse_configuration(options: argparse.Namespace, extra_files: Sequence[str] = ()) -> None:
    from distill.api import configuration

    files, bindings = list(options.gin_file), list(options.gin_bindings)
    model_dir = getattr(options, "model_dir", None)
    if model_dir:
        config = Path(model_dir) / CONFIG
        if not config.exists():
            raise configuration.ConfigurationError(f"{model_dir} holds no {CONFIG}; is it a trained model's directory?")
        files.insert(0, str(config))
        bindings.append(f"MODEL_DIR = {model_dir!r}")
    paths = [path for path in options.gin_search_paths.split(",") if path]
    configuration.parse([*files, *extra_files], bindings, paths, options.gin_module)


def join(options: argparse.Namespace) -> None:
    """Meets the other processes of the run, if there are any; before JAX is used for anything else."""
    given = (options.coordinator_address, options.num_processes, options.process_id)
    if options.multiprocess or any(value is not None for value in given):
        import jax

        jax.distributed.initialize(*given, heartbeat_timeout_seconds=options.heartbeat_timeout_seconds)


def is_first() -> bool:
    import jax

    return jax.process_index() == 0


def register() -> None:
    from distill.api import configuration
    from distill.tasks import registration

    configuration.configured(registration.register)()


def is_quiet(options: argparse.Namespace) -> bool:
    return bool(getattr(options, "quiet", False))


def write_configuration() -> None:
    """Writes the resolved configuration, and the student as data, beside the checkpoint.

    Raises:
      ValueError: the directory holds a run with other settings.
    """
    from etils import epath

    from distill.api import configuration
    from distill.inference import model_directory

    directory = configuration.macro("MODEL_DIR")
    there = epath.Path(directory) / CONFIG
    before = configuration.bindings_of(there.read_text(), str(there)) if there.exists() else None
    text = configuration.resolved()
    student, vocabulary = _described()
    said = model_directory.begin(
        directory, text, before, configuration.bindings_of(text), student, vocabulary, writes=is_first()
    )
    for line in said if is_first() else ():
        print(line, file=sys.stderr)


def _described() -> tuple["Student | None", bytes | None]:
    """The student of the configuration as data, and its vocabulary's file. No student where no plain vocabulary fits."""
    from distill.api import configuration
    from distill.inference.decoder import DecodeConfig
    from distill.inference.student import Student
    from distill.sharding.partitioning import MeshConfig
    from distill.tasks import registration, vocabularies
    from distill.training import train

    given, registered = configuration.arguments_of(train.train), configuration.arguments_of(registration.register)
    vocabulary = registered.get("vocabulary", "t5")
    vocabulary = vocabularies.load(vocabulary) if isinstance(vocabulary, str) else vocabulary
    try:
        model = vocabularies.model_bytes(vocabulary)
    except ValueError:
        return None, None
    dataset, validation = registered["dataset"], given.get("validation")
    task = validation.task_name if validation is not None else given["data"].mixture_or_task_name
    student = Student(
        given["model"],
        "bytes" if model is None else "sentencepiece",
        vocabulary.extra_ids,
        form=task.removeprefix(f"{dataset.name}_"),
        label_prefix=registered.get("label_prefix", registration.LABEL_PREFIX),
        rationale_prefix=registered.get("rationale_prefix", registration.RATIONALE_PREFIX),
        separator=dataset.separator,
        input_field=getattr(dataset.source, "input_field", "input"),
        dataset=dataset.name,
        answer=dataset.answer,
        decode=DecodeConfig() if validation is None else validation.decode,
        mesh=given.get("mesh") or MeshConfig(),
        trained_in=os.getcwd(),
    )
    return student, None if model is None else vocabularies.without_extra_ids(model, vocabulary.extra_ids)
