"""Measures how much of the windows the training data fills, and suggests shorter windows."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from distill.counting import counted
from distill.data.counts import Counts
from distill.data.packing import Layout
from distill.data.stream import Batch, Stream
from distill.tasks import task_ids

# Lengths to suggest: powers of two, and the means of two neighbours.
_LENGTHS = sorted(length for power in range(4, 15) for length in (2**power, 3 * 2 ** (power - 1)))


@dataclasses.dataclass(frozen=True)
class Summary:
    """Sizes and lengths of the training data.

    Attributes:
      layout: the shape of a batch.
      examples: number of examples per epoch.
      counts: counts of its sequences, and of those that are truncated.
      inputs, targets: int32 [sequences], tokens of each sequence, truncated to the window.
      row_lines: lines on which rows are used, see :meth:`distill.data.stream.Stream.row_lines`.
    """

    layout: Layout
    examples: int
    counts: Counts
    inputs: np.ndarray
    targets: np.ndarray
    row_lines: Sequence[str] = ()

    @classmethod
    def of(cls, stream: Stream) -> "Summary":
        """Reads the lengths of the first epoch. Call it before another thread takes batches."""
        return cls(stream.layout, stream.examples, stream.counts, *stream.lengths(), stream.row_lines())

    def lines(self, batch: Batch, total: Callable[[np.ndarray], np.ndarray] = lambda counts: counts) -> list[str]:
        """Returns lines with examples, sequences, rows, lengths, and the padding of ``batch``.

        Args:
          batch: this process's rows of a batch.
          total: sums an array of counts over the processes of the run, each of which calls it.
        """
        number = {task_ids.NAMES[task]: count for task, count in self.counts.sequences.items() if count}
        tasks = ", ".join(f"{count:,} {name}" for name, count in number.items())
        lines = [f"data: {counted(self.examples, 'example')}, {counted(sum(number.values()), 'sequence')} ({tasks})"]
        lines += self.row_lines
        sides = (
            ("inputs", self.inputs, self.counts.truncated_inputs, batch.arrays["encoder_input_tokens"]),
            ("targets", self.targets, self.counts.truncated_targets, batch.arrays["decoder_target_tokens"]),
        )
        filled = total(np.array([[np.count_nonzero(tokens), tokens.size] for *_, tokens in sides], np.int32))
        for (name, lengths, truncated, _), (real, positions) in zip(sides, filled.tolist(), strict=True):
            if not positions:
                continue
            p99, padding = math.ceil(np.percentile(lengths, 99)), 1.0 - real / positions
            window = self.layout.encoder_length if name == "inputs" else self.layout.decoder_length
            cut = ", cut to the window," if any(truncated.values()) else ""
            line = f"p99 of {name}{cut} is {p99}, mean {lengths.mean():.0f}, window {window}: {100 * padding:.0f} % padding"
            shorter = None if cut else advised(p99, window, padding, self.layout.packed)
            if shorter is not None:
                present = round((1.0 - padding) * window)
                packs = self.layout.packed and present > p99
                holds = (
                    f"for the {present} tokens of several sequences per window plus 10 %"
                    if packs
                    else "which holds p99"
                )
                line += f"; consider {shorter} in TASK_FEATURE_LENGTHS, {holds}"
            lines.append(line)
        return lines

    def warnings(self) -> list[str]:
        """Returns a line about the sequences that are truncated, with the remedy; none if all fit."""
        return truncation(self.counts, self.layout)


def truncation(counts: Counts, layout: Layout, of: str = "the") -> list[str]:
    """Returns a line about the sequences that are truncated to the windows of ``layout``; none if all fit.

    Args:
      counts: of the sequences.
      layout: the shape of a batch.
      of: ``the`` for all sequences, ``a sample of`` for some.
    """
    if not any(counts.truncated.values()):
        return []
    sides = (
        ("input", counts.truncated_inputs, layout.encoder_length, counts.longest_inputs),
        ("target", counts.truncated_targets, layout.decoder_length, counts.longest_targets),
    )
    long = [(name, sum(cut.values()), window, most) for name, cut, window, most in sides if any(cut.values())]
    found = " and ".join(
        f"{counted(number, name)} (window {window}, the longest needs {most:,} tokens)"
        for name, number, window, most in long
    )
    remedy = " and ".join(f"{name}s" for name, *_ in long)
    sequences = counted(sum(counts.sequences.values()), "training sequence")
    loses = counts.label_is_last and any(counts.truncated_targets.values())
    label = "; a target that is cut loses its label, which follows the rationale" if loses else ""
    return [
        f"{counts.share_truncated():.2%} of {of} {sequences} are longer than the window and are cut: {found}{label}; raise "
        f"{remedy} in TASK_FEATURE_LENGTHS to keep them whole"
    ]


def advised(p99: int, window: int, padding: float, packed: bool) -> int | None:
    """Returns a shorter window that holds 99 % of the sequences if more than half of this one is padding, else None.

    A packed window keeps room for its present tokens plus 10 %.

    Args:
      p99: the 99th percentile of sequence lengths in tokens.
      window: tokens of a window.
      padding: the share of padding.
      packed: whether a window holds several sequences.
    """
    if padding <= 0.5:
        return None
    needed = max(p99, math.ceil(1.1 * (1.0 - padding) * window)) if packed else p99
    shorter = next((length for length in _LENGTHS if length >= needed), window)
    return shorter if 1.25 * shorter <= window else None
