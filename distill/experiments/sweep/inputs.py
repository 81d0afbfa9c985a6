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

    def refuse_changed(self, run: Run, now: "Inputs") -> None:
        """Refuses to start a run whose inputs have changed.

        Settings that the student does not depend on, and those that the sweep sets itself, are not compared; neither are
        files and rows that only one side has.

        Args:
          run: the run.
          now: its inputs now.

        Raises:
          Changed: names the first difference.
        """
        what = self._changed_setting(run, now) or self._changed_rows(now)
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

    def _changed_rows(self, now: "Inputs") -> str:
        for key, hashes in now.rows.items():
            if not set(hashes) <= set(self.rows.get(key, hashes)):
                return f"the rows of {key.partition(', settings ')[0]} have changed since the sweep was planned"
        return ""
