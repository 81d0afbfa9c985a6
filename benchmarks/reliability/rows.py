"""The rows of the table, and how they are printed."""

import dataclasses
from collections.abc import Sequence
from typing import NoReturn


@dataclasses.dataclass
class Row:
    """One promise and what became of it.

    Attributes:
      promise: what should hold.
      how: what was done to it.
      tried: how often.
      lost: outcomes in which work, rows or files were lost or changed.
      silent: outcomes in which something was wrong and nothing was reported.
      executed: commands of hostile inputs that ran.
      seconds: duration of the part.
      faults: what went wrong, in words.
    """

    promise: str
    how: str
    tried: int = 0
    lost: int = 0
    silent: int = 0
    executed: int = 0
    seconds: float = 0.0
    faults: list[str] = dataclasses.field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing was lost, silent or executed, and something was tried."""
        return self.tried > 0 and not (self.lost or self.silent or self.executed)

    def lose(self, fault: str) -> None:
        """Counts a loss."""
        self.lost += 1
        self.faults.append(fault)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| promise | how tested | tried | lost | silent | executed | s |", "|---|---|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {row.promise} | {row.how} | {row.tried:,} | {row.lost} | {row.silent} | {row.executed} | {row.seconds:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def finish(rows: Sequence[Row]) -> NoReturn:
    """Ends a part that ran as a program: prints the table and the faults; the exit code is 1 if a row is not good."""
    print(markdown(rows), *(fault for row in rows for fault in row.faults), sep="\n")
    raise SystemExit(not all(row.good for row in rows))
