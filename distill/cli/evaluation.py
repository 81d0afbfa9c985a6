"""``distill eval``."""

import argparse
import functools
import glob
import os
import sys

from distill.cli import runs
from distill.terminal import Terminal


def eval_command(options: argparse.Namespace) -> int:
    runs.join(options)
    options.gin_bindings.append(f"SPLIT = {options.split!r}")
    if options.model_dir:
        _find_files(options)
    runs.parse_configuration(options, ["gin/runs/eval.gin"])
    from distill.api import configuration
    from distill.inference import evaluate
    from distill.training import checks

    run = configuration.configured(evaluate.evaluate)
    runs.register()
    terminal = Terminal(active=runs.is_first(), quiet=runs.is_quiet(options))
    directory = configuration.arguments_of(evaluate.evaluate)["model_dir"]
    scored_again = functools.partial(checks.scored_again, directory)
    found = run(output_dir=options.output, terminal=terminal, warnings_of=scored_again)
    for name, value in found.metrics.items() if runs.is_first() else ():
        print(f"{options.split} {name}: {value:.4f}")
    return 0


def _find_files(options: argparse.Namespace) -> None:
    """Allows evaluation from any folder: uses the directory's vocabulary, and the data of the training's folder."""
    from etils import epath

    from distill.api import configuration
    from distill.inference import student

    directory = epath.Path(options.model_dir)
    if not ((directory / student.FILE).exists() and (directory / runs.CONFIG).exists()):
        return
    described = student.read(directory)
    there = configuration.bindings_of((directory / runs.CONFIG).read_text(), str(directory / runs.CONFIG))
    given = {binding.partition("=")[0].strip() for binding in options.gin_bindings}
    found: dict[str, object] = {}
    if described.vocabulary == "sentencepiece" and "VOCABULARY_PATH" in there:
        student.read_vocabulary(directory, described)  # raises a one-line error if the file is damaged
        found["VOCABULARY_PATH"] = str(directory / student.VOCABULARY_FILE)

    def moved(path: object) -> object:
        """The path or paths relative to the training's folder, where they do not exist relative to the current one."""
        if isinstance(path, list | tuple):
            return type(path)(moved(one) for one in path)
        if not isinstance(path, str) or "://" in path or os.path.isabs(path) or _exists(path, os.curdir):
            return path
        there = described.trained_in
        return os.path.join(there, path) if there and _exists(path, there) else path

    for name in ("FILES", "DATA_DIR"):
        value = there.get(name)
        new = {key: moved(path) for key, path in value.items()} if isinstance(value, dict) else moved(value)
        if new != value:
            found[name] = new
            print(f"{name} is taken from {described.trained_in}, where the student was trained", file=sys.stderr)
    options.gin_bindings[:0] = [f"{name} = {value!r}" for name, value in found.items() if name not in given]


def _exists(path: str, folder: str) -> bool:
    """Whether a path relative to a folder, or a file that matches it as a pattern, exists."""
    return os.path.exists(os.path.join(folder, path)) or bool(glob.glob(path, root_dir=folder))
