"""What the runs of a sweep read when they start, as it was when the sweep was planned: settings of gin files, and rows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from distill.experiments.sweep.levels import SweepError
from distill.experiments.sweep.runs import Run
from distill.inference import run_settings


class Changed(SweepError):
    """Gin files or rows have changed since the sweep was planned: its remaining runs would train another student."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Gin files and rows.

    Attributes:
      gin: gin file, as it is given or included → its bindings, name → value as JSON.
      rows: data set, split and settings, as one text → hashes of the rows; several where an axis sets the files of rows.
    """

    gin: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    rows: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def updated(self, newer: "Inputs") -> "Inputs":
        """Returns these inputs with ``newer``: its gin files replace those of the same name, its hashes are added."""
        rows = {key: sorted({*self.rows.get(key, ()), *newer.rows.get(key, ())}) for key in (*self.rows, *newer.rows)}
        return Inputs({**self.gin, **newer.gin}, rows)

    def changed_rows(self, now: "Inputs") -> list[str]:
        """The keys of the rows whose hashes ``now`` are not among these; rows that only one side has are not compared."""
        return [key for key, hashes in now.rows.items() if not set(hashes) <= set(self.rows.get(key, hashes))]

    def refuse_changed(self, run: Run, now: "Inputs", files: Any = None) -> None:
        """Refuses to start a run whose inputs have changed.

        Settings that the student does not depend on, and those that the sweep sets itself, are not compared; neither are
        files and rows that only one side has.

        Args:
          run: the run.
          now: its inputs now.
          files: its ``FILES``, which name the rows; None if it has none.

        Raises:
          Changed: names the first difference.
        """
        rows = [f"the rows of {named_rows(key, files)}" for key in self.changed_rows(now)]
        changed = [f"{one} have changed since the sweep was planned" for one in rows]
        what = self._changed_setting(run, now) or next(iter(changed), "")
        if what:
            raise Changed(
                f"{run.name} was not started: {what}; it would train another student than the runs before; undo the change "
                "and run the same command again, or train the sweep in another directory with --directory=DIR"
            )

    def _changed_setting(self, run: Run, now: "Inputs") -> str:
        own = {text.partition(" = ")[0] for text in run.bindings}
        for file, bindings in now.gin.items():
            for one in run_settings.differences(self.gin.get(file, bindings), bindings):
                if one.student and one.name not in own:
                    return f"{file} has been edited since the sweep was planned ({one})"
        return ""


def named_rows(key: str, files: Any) -> str:
    """Rows in words: the files of their split, of ``train`` if it has none, else data set and split.

    Args:
      key: of :attr:`Inputs.rows`, or its end, ``split NAME``.
      files: ``FILES`` of a run; anything else names no file.

    >>> named_rows("jsonl, split test, settings a", {"train": "a.jsonl", "test": ["b.jsonl", "c.jsonl"]})
    'b.jsonl, c.jsonl'
    >>> named_rows("set, split test, settings a", None)
    'set, split test'
    """
    what = key.partition(", settings ")[0]
    split = what.rpartition("split ")[2]
    found = (files.get(split) or files.get("train")) if isinstance(files, Mapping) else None
    return ", ".join([found] if isinstance(found, str) else map(str, found)) if found else what
