"""Finds gin and sweep files by their names."""

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import distill
from distill.api.paths import expand_home
from distill.validation import suggested

_FAR = 0.15  # difference of likeness to the closest name from which on a name is no suggestion


class ConfigurationError(ValueError):
    """A mistake in the configuration, reported in one message before any work is done."""


def search_paths(extra: Sequence[str] = ()) -> list[str]:
    """The folders to search: the current one, ``extra``, and the package's, which holds ``gin/``."""
    return ["", *(expand_home(path) for path in extra), str(Path(distill.__file__).parent)]


def find(name: str, paths: Sequence[str] | None = None) -> str:
    """The path of a gin or sweep file; those in a folder ``gin`` are found with or without their leading ``gin/``.

    Args:
      name: as given, ``~`` allowed.
      paths: folders to look in, in order; by default those of :func:`search_paths`.

    Raises:
      ConfigurationError: nothing found; names the nearest known file.
    """
    paths, name = search_paths() if paths is None else paths, expand_home(name)
    candidates = [os.path.join(path, name) for path in paths]
    candidates += [os.path.join(path, "gin", name) for path in paths]
    for full in candidates:
        if os.path.isfile(full):
            return full
    kind = os.path.splitext(name)[1] or ".gin"
    known = {
        os.path.relpath(os.path.join(folder, file), base)
        for base in paths[1:]
        for folder, _, files in os.walk(os.path.join(base, "gin"))
        for file in files
        if file.endswith(kind)
    }
    with contextlib.suppress(OSError):
        beside = os.path.dirname(name)
        known |= {os.path.join(beside, file) for file in os.listdir(beside or ".") if file.endswith(kind)}
    near = suggested(_alike(name, known))
    if os.path.isdir(name):
        raise ConfigurationError(f"{name!r} is a folder, not a {kind.removeprefix('.')} file")
    raise ConfigurationError(
        f"no {kind.removeprefix('.')} file {name!r}{near} (looked in {', '.join(p or os.getcwd() for p in paths)})"
    )


def _alike(path: str, known: Iterable[str]) -> list[str]:
    """At most three of the paths ``known`` whose file has nearly the name of that of ``path``, the closest name first.

    >>> _alike("model/t5_smal.gin", ["models/t5_small.gin", "runs/eval.gin"]), _alike("no.gin", ["b.gin"])
    (['models/t5_small.gin'], [])
    """

    def stem(one: str) -> str:
        return os.path.splitext(os.path.basename(one))[0]

    names = nearest(stem(path), {stem(one) for one in known})
    found = [one for one in known if stem(one) in names]

    def distance(one: str) -> tuple[int, float]:
        return names.index(stem(one)), -difflib.SequenceMatcher(None, one, path).ratio()

    return sorted(found, key=distance)[:3]


def shipped(folder: str) -> list[str]:
    """The names of the shipped files of a folder of ``gin/``, without their suffix.

    Files of ``models`` that only other files include ("not a model by itself") are left out.
    """
    files = sorted((Path(distill.__file__).parent / "gin" / folder).glob("*.gin"))
    return [file.stem for file in files if "not a model by itself" not in file.read_text("utf-8")]


def close(name: str, known: Iterable[str]) -> list[str]:
    """At most three of the names ``known`` that ``name`` is close to, the closest first.

    Those that are much less close than the first are left out.

    >>> close("EMA_DECY", ["EMA_DECAY", "REMAT_POLICY"]), close("rate", ["rates", "ratio", "rated"])
    (['EMA_DECAY'], ['rates', 'rated'])
    """
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, one, name).ratio() for one in near]
    return [one for one, ratio in zip(near, likeness) if ratio >= likeness[0] - _FAR]


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most three of the names ``known`` that differ from ``name`` in the number at its end only, the nearest first.

    If there are none, the names that it is close to.

    >>> nearest("gpu_16", ["gpu_1", "gpu_8", "tpu_16"]), nearest("gpu_on", ["gpu_1", "gpu_one"])
    (['gpu_8', 'gpu_1'], ['gpu_one'])
    """
    known, wanted = sorted(known), _number(name)
    if wanted is not None:
        numbers = {one: found[1] for one in known if (found := _number(one)) and found[0] == wanted[0]}
        if numbers:
            return sorted(numbers, key=lambda one: abs(numbers[one] - wanted[1]))[:3]
    return close(name, known)


def _number(name: str) -> tuple[str, int] | None:
    """The parts of a name such as ``gpu_8`` that ends with a number."""
    found = re.fullmatch(r"(.+_)(\d+)", name)
    return (found[1], int(found[2])) if found else None


def without_gin(message: str) -> str:
    """A message without gin's remarks on the calls that raised it."""
    return re.sub(r"\n\s*In call to configurable .*", "", message).strip()
