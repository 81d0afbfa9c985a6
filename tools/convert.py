"""Converts checkpoints between this program, Hugging Face and T5X, and from T5Gemma's Flax files, one array at a time.

distill convert --from=gs://t5-data/pretrained_models/t5x/t5_1_1_base/checkpoint_1000000 --to=t5_1_1_base
distill convert --from=google/flan-t5-base --to=flan_t5_base --to_format=distill
distill convert --from=google/mt5-small@refs/pr/6 --to=mt5_small --to_format=distill
distill convert --from=t5gemma-b-b-ul2 --to=t5gemma_b  # Flax files of T5Gemma, from Kaggle
distill convert --from=runs/svamp --to=svamp_t5x --to_format=t5x --layout=scalable_t5
distill convert --from=runs/svamp                      # prints its format and shape
"""

import argparse
import ast
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill import validation
from distill.model.config import T5Config

FORMATS = ("hf", "t5x", "t5x_orbax", "distill")
T5X_NETWORKS = ("t5", "scalable_t5")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the flags of ``distill convert``."""
    command.add_argument(
        "--from",
        dest="source",
        required=True,
        help="a model directory, a Hugging Face folder, name or name@revision, a T5X checkpoint, or T5Gemma's Flax files",
    )
    command.add_argument("--to", help="a new folder; without it, the source is only described")
    command.add_argument("--to_format", default="hf", choices=FORMATS, help="format to write; default: hf")
    command.add_argument(
        "--scan_layers", choices=("true", "false"), help="stack layers in the result; default: as in the source"
    )
    command.add_argument(
        "--layout", default="t5", choices=T5X_NETWORKS, help="with t5x: the names and shapes to use; default: t5"
    )
    command.add_argument("--step", type=int, help="step of the checkpoint written; default: the source's, or 0")
    command.add_argument(
        "--model_type",
        choices=("t5", "mt5", "umt5"),
        help="with hf: the model type to write; default: the one that fits the network",
    )
    command.add_argument("--vocabulary", help="with hf, to write its tokenizer: t5, mt5, bytes or a .model file")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the model's configuration that the source does not hold; may repeat",
    )


def _overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Fields of T5Config from FIELD=VALUE texts. Raises ValueError for unknown fields and values that are not literals."""
    known = [field.name for field in dataclasses.fields(T5Config)]
    result: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name not in known or not equals:
            hint = validation.did_you_mean(name, known)
            raise ValueError(f"--set needs FIELD=VALUE with a field of T5Config; got {setting!r}{hint}")
        try:
            result[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            result[name] = text
    return result


def run(options: argparse.Namespace) -> int:
    """Converts, or describes the source; returns the exit code.

    Raises:
      ValueError: arguments that exclude each other, a source that cannot be read, or a target that is not empty.
      FileNotFoundError: there is no such source.
    """
    from distill.checkpoints import conversion, leftovers
    from distill.checkpoints.huggingface import tokenizer_files
    from distill.inference import model_directory
    from distill.tasks import vocabularies

    overrides = _overrides(options.set)
    if warning := model_directory.unfinished(options.source):
        logging.warning("%s", warning)
    if options.to is None:
        with conversion.open_source(options.source, **overrides) as source:
            print(source.found())
        return 0
    if options.vocabulary and options.to_format != "hf":
        raise ValueError(f"--vocabulary goes with --to_format=hf; got {options.to_format}")
    to = Path(options.to)
    if "://" not in options.to and to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{options.to} is not an empty folder; name another")
    with leftovers.removed_on_failure(options.to):
        source = conversion.convert(
            options.source,
            options.to,
            options.to_format,
            scan_layers=None if options.scan_layers is None else options.scan_layers == "true",
            layout=options.layout,
            step=options.step,
            model_type=options.model_type,
            overrides=overrides,
        )
        if options.vocabulary:
            tokenizer_files.write(to, vocabularies.load(options.vocabulary))
    print(source.found())
    print(f"written to {options.to} ({options.to_format})")
    return 0
