"""Converts checkpoints between this program, Hugging Face and T5X, one array in memory at a time.

python -m tools.convert --from=gs://t5-data/pretrained_models/t5x/t5_1_1_base/checkpoint_1000000 --to=t5_1_1_base
python -m tools.convert --from=google/flan-t5-base --to=flan_t5_base --to_format=distill
python -m tools.convert --from=google/mt5-small@refs/pr/6 --to=mt5_small --to_format=distill
python -m tools.convert --from=runs/svamp --to=svamp_t5x --to_format=t5x --layout=scalable_t5
python -m tools.convert --from=runs/svamp                      # only says what is there
"""

import argparse
import ast
import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.interop import conversion, t5x_checkpoints, tokenizer_files
from distill.network import T5Config
from tasks import vocabularies


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        help="a model directory, a Hugging Face folder, name or name@revision, or a T5X checkpoint",
    )
    parser.add_argument("--to", help="a new folder; without it, only says what the source is")
    parser.add_argument("--to_format", default="hf", choices=conversion.TO_FORMATS)
    parser.add_argument(
        "--scan_layers", choices=("true", "false"), help="stack layers there; by default as in the source"
    )
    parser.add_argument(
        "--layout", default="t5", choices=t5x_checkpoints.LAYOUTS, help="of T5X: whose names and shapes"
    )
    parser.add_argument("--step", type=int, help="of the checkpoint written; by default the source's, or 0")
    parser.add_argument("--model_type", choices=("t5", "mt5", "umt5"), help="of Hugging Face; by default what fits")
    parser.add_argument("--vocabulary", help="with hf, to write its tokenizer: t5, mt5, bytes or a .model file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a T5Config field that the source does not tell",
    )
    return parser.parse_args(argv)


def _overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Fields of T5Config from FIELD=VALUE texts. Raises ValueError for unknown fields and values that are no literals."""
    known = [field.name for field in dataclasses.fields(T5Config)]
    result: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name not in known or not equals:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"--set wants FIELD=VALUE with a field of T5Config; got {setting!r}{hint}")
        try:
            result[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            result[name] = text
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns the exit status."""
    arguments = _arguments(argv)
    try:
        overrides = _overrides(arguments.set)
        if arguments.to is None:
            with conversion.open_source(arguments.source, **overrides) as source:
                print(source.found())
            return 0
        if arguments.vocabulary and arguments.to_format != "hf":
            raise ValueError(f"--vocabulary goes with --to_format=hf; got {arguments.to_format}")
        to = Path(arguments.to)
        if "://" not in arguments.to and to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise ValueError(f"{arguments.to} is not an empty folder; name another")
        source = conversion.convert(
            arguments.source,
            arguments.to,
            arguments.to_format,
            scan_layers=None if arguments.scan_layers is None else arguments.scan_layers == "true",
            layout=arguments.layout,
            step=arguments.step,
            model_type=arguments.model_type,
            overrides=overrides,
        )
        if arguments.vocabulary:
            tokenizer_files.write(to, vocabularies.load(arguments.vocabulary))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(source.found())
    print(f"written to {arguments.to} ({arguments.to_format})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
