"""Blocks of an input's rows, which machines answer apart from each other."""

import dataclasses
import os
from pathlib import Path

from distill.counting import counted
from distill.tasks import sources


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of an input.

    Attributes:
      name: names the block and the input's size, such as ``2/4 of 10 rows``.
      first: its first row, from 0.
      end: the row after its last.
    """

    name: str
    first: int
    end: int


def block_of(path: str | os.PathLike[str], index: int, shards: int) -> Block:
    """Returns block ``index`` of 1 to ``shards``; sizes differ by at most one. Reads the whole input to count its rows.

    Raises:
      ValueError: an index out of range, or more shards than rows.
      distill.tasks.records.SourceError: the input cannot be read to its end.
    """
    if not 1 <= index <= shards:
        raise ValueError(f"--shard must be I/N with 1 ≤ I ≤ N; got {index}/{shards}")
    total = sum(1 for _ in sources.read_rows(Path(path), "rows to answer", keep_blank=True))
    if total < shards:
        raise ValueError(
            f"--shard={index}/{shards}: {os.fspath(path)} has {counted(total, 'row')}; use at most one shard per row"
        )
    return Block(f"{index}/{shards} of {total} rows", total * (index - 1) // shards, total * index // shards)
