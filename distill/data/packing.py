"""Packing of (input, target) sequences into the fixed windows of one batch, in numpy.

Packing has two phases. Planning assigns sequences to windows; it needs only lengths, so all processes of a run compute
the same plan. Filling copies tokens; it needs only the tokens of the requested windows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from distill import validation
from distill.data.windows import Windows, place_all

# Placing a batch anew takes up to 0.1 ms per sequence, and large batches are full enough without it.
_MOST_PLACED_ANEW = 128

Rows = slice | np.ndarray
"""Some rows (windows) of a global batch: a slice, or their numbers, int64 in ascending order."""


@dataclasses.dataclass(frozen=True)
class TokenPair:
    """One tokenised sequence pair, already truncated to the window lengths.

    Attributes:
      inputs: int32 [n], encoder tokens, with EOS.
      targets: int32 [m], decoder tokens, with EOS.
      task_ids: int32 [m], the task of each target token.
      weights: float32 [m], the loss weight of each target token.
    """

    inputs: np.ndarray
    targets: np.ndarray
    task_ids: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shape of a batch.

    Attributes:
      windows: windows per batch (the global batch size).
      encoder_length: tokens per encoder window.
      decoder_length: tokens per decoder window.
      packed: whether a window may hold several groups of sequences (without a shared encoder: several sequences).
      shared_encoder: whether a group has one input that all its targets attend to; the group is then in one window.

    Raises:
      ValueError: a size is below 1.
    """

    windows: int
    encoder_length: int
    decoder_length: int
    packed: bool = True
    shared_encoder: bool = False

    def __post_init__(self) -> None:
        for name in ("windows", "encoder_length", "decoder_length"):
            validation.check_range(f"Layout.{name}", getattr(self, name), "≥ 1")

    def numbers(self, rows: Rows) -> np.ndarray:
        """Returns the numbers of some rows of a batch, int64 in ascending order."""
        return np.arange(self.windows)[rows]


@dataclasses.dataclass(frozen=True)
class Sequences:
    """``k`` sequence pairs, concatenated.

    Attributes:
      inputs: int32 [sum of input lengths].
      targets: int32 [sum of target lengths].
      task_ids: int32, of the length of ``targets``.
      weights: float32, of the length of ``targets``.
      input_lengths, target_lengths: int64 [k].
    """

    inputs: np.ndarray
    targets: np.ndarray
    task_ids: np.ndarray
    weights: np.ndarray
    input_lengths: np.ndarray
    target_lengths: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[TokenPair]) -> "Sequences":
        """Concatenates the pairs, in order."""
        return cls(
            _joined([pair.inputs for pair in pairs], np.int32),
            _joined([pair.targets for pair in pairs], np.int32),
            _joined([pair.task_ids for pair in pairs], np.int32),
            _joined([pair.weights for pair in pairs], np.float32),
            np.array([len(pair.inputs) for pair in pairs], np.int64),
            np.array([len(pair.targets) for pair in pairs], np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence["Sequences"]) -> "Sequences":
        """Concatenates the parts, in order."""
        if len(parts) < 2:
            return parts[0] if parts else cls.of([])
        dtypes = {"weights": np.float32, "input_lengths": np.int64, "target_lengths": np.int64}
        fields = [field.name for field in dataclasses.fields(cls)]
        return cls(*(_joined([getattr(p, name) for p in parts], dtypes.get(name, np.int32)) for name in fields))

    def __len__(self) -> int:
        return len(self.input_lengths)

    def pairs(self) -> list[TokenPair]:
        """Returns the sequences as separate pairs of views."""
        inputs = np.split(self.inputs, np.cumsum(self.input_lengths)[:-1])
        ends = np.cumsum(self.target_lengths)[:-1]
        return [
            TokenPair(*pair)
            for pair in zip(inputs, *(np.split(x, ends) for x in (self.targets, self.task_ids, self.weights)))
        ]

    def take(
        self,
        numbers: np.ndarray,
        encoder_length: int | np.ndarray | None = None,
        decoder_length: int | np.ndarray | None = None,
    ) -> "Sequences":
        """Selects sequences, possibly repeated, and optionally truncates them.

        Args:
          numbers: int [j], indices of the sequences.
          encoder_length, decoder_length: largest number of tokens to keep, or int [j], one per sequence; None keeps
            all.
        """
        input_lengths, target_lengths = self.input_lengths[numbers], self.target_lengths[numbers]
        input_starts = (np.cumsum(self.input_lengths) - self.input_lengths)[numbers]
        target_starts = (np.cumsum(self.target_lengths) - self.target_lengths)[numbers]
        if encoder_length is not None:
            input_lengths = np.minimum(input_lengths, encoder_length)
        if decoder_length is not None:
            target_lengths = np.minimum(target_lengths, decoder_length)
        inputs, _ = _runs(input_starts, input_lengths)
        targets, _ = _runs(target_starts, target_lengths)
        return Sequences(
            self.inputs[inputs],
            self.targets[targets],
            self.task_ids[targets],
            self.weights[targets],
            input_lengths,
            target_lengths,
        )


def _joined(arrays: Sequence[np.ndarray], dtype: DTypeLike) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.zeros(0, dtype)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The positions of sequences in a batch, in the order of placement.

    Attributes:
      rows: int64 [k], the window of each sequence.
      segments: int64 [k], the number of each sequence in its window, from 1. With a shared encoder, group g has the two
        segment ids 2g - 1 and 2g, whether it uses both or not; g is the segment id of its input.
      encoder_offsets, decoder_offsets: int64 [k], the position in the window where each sequence starts.
    """

    rows: np.ndarray
    segments: np.ndarray
    encoder_offsets: np.ndarray
    decoder_offsets: np.ndarray

    def inside(self, rows: Rows, layout: Layout) -> np.ndarray:
        """Returns the indices of the sequences in the given windows."""
        return np.flatnonzero(np.isin(self.rows, layout.numbers(rows)))

    def take(self, numbers: np.ndarray) -> "Plan":
        """Returns the placements of some of the sequences."""
        return Plan(*(getattr(self, field.name)[numbers] for field in dataclasses.fields(self)))


class Planner:
    """Places groups of sequences into the windows of one batch; a group is placed whole or not at all.

    All windows of the batch are open, and a sequence is placed where it keeps the balance of inputs and targets; see
    :mod:`distill.data.windows`. When a group does not fit, the sequences of a small batch are all placed anew. A paired
    example is a group of two sequences, so its label and its rationale are always in the same batch and, if they share an
    input, in the same window. An unpacked batch has one sequence per window, or one group per window if its sequences
    share an input.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self._clear()

    def _clear(self) -> None:
        self._windows = Windows(self.layout.windows, self.layout.encoder_length, self.layout.decoder_length)
        # What is placed whole in one window: a sequence, or, with a shared encoder, a group.
        self._sizes: list[tuple[int, int]] = []
        self._rows: list[int] = []
        self._sequences: list[tuple[int, int]] = []
        self._first: list[int] = []  # 1 for the first sequence of its window's item, else 0

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, group: Sequence[tuple[int, int]]) -> bool:
        """Places the whole group and returns True, or places nothing and returns False.

        Args:
          group: (input tokens, target tokens) of each sequence. With a shared encoder, at most two sequences, of which
            only the first has input tokens.

        Raises:
          ValueError: a sequence is longer than a window, the group does not fit an empty batch, or, with a shared
            encoder, the group has more than two sequences or the second one has an input.
        """
        sizes = self._checked(group)
        rows = self._placed(sizes)
        if rows is None:
            if not self._sizes:
                raise ValueError(
                    f"a group of {len(group)} sequences does not fit an empty batch of {self.layout.windows} windows"
                )
            rows = self._placed_anew(sizes)
        if rows is None:
            return False
        self._sizes += sizes
        self._rows += rows
        self._sequences += group
        self._first += [1, *[0] * (len(group) - 1)] if self.layout.shared_encoder else [1] * len(group)
        return True

    def _checked(self, group: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Returns the sizes of what must be placed; raises ValueError if one is larger than a window."""
        layout = self.layout
        sizes = list(group)
        if layout.shared_encoder and group:
            if len(group) > 2 or any(encoder for encoder, _ in group[1:]):
                raise ValueError(
                    f"at most two sequences may share an input, and only the first may have it; got {group}"
                )
            sizes = [(sum(encoder for encoder, _ in group), sum(decoder for _, decoder in group))]
        for encoder, decoder in sizes:
            if encoder > layout.encoder_length or decoder > layout.decoder_length:
                raise ValueError(
                    f"a sequence of {encoder} input and {decoder} target tokens is longer than the window "
                    f"({layout.encoder_length}, {layout.decoder_length}); truncate it first"
                )
        return sizes if layout.packed else [(layout.encoder_length, layout.decoder_length)] * len(sizes)

    def _placed(self, sizes: Sequence[tuple[int, int]]) -> list[int] | None:
        """Returns the window of each size; None, and nothing is placed, if one does not fit."""
        rows: list[int] = []
        for size in sizes:
            row = self._windows.place(*size)
            if row is None:
                for placed, before in zip(rows, sizes):
                    self._windows.give_back(placed, *before)
                return None
            rows.append(row)
        return rows

    def _placed_anew(self, sizes: Sequence[tuple[int, int]]) -> list[int] | None:
        """Places everything anew to make room for more, if the batch is small; returns the windows of ``sizes``."""
        before, layout = len(self._sizes), self.layout
        if before > _MOST_PLACED_ANEW:
            return None
        anew = place_all([*self._sizes, *sizes], layout.windows, layout.encoder_length, layout.decoder_length)
        if anew is None:
            return None
        self._windows, rows = anew
        self._rows = rows[:before]
        return rows[before:]

    def take(self) -> Plan:
        """Returns the plan of the batch so far, and resets the planner."""
        encoder, decoder = np.array(self._sequences, np.int64).reshape(-1, 2).T
        first = np.array(self._first, np.int64)
        rows = np.array(self._rows, np.int64)[np.cumsum(first) - 1]
        shared = self.layout.shared_encoder
        self._clear()
        before = _before(rows, first)
        segments = 2 * before + first if shared else before + 1
        return Plan(rows, segments, _before(rows, encoder), _before(rows, decoder))


def _before(rows: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Returns, for each element, the sum of the earlier amounts of its row, int64."""
    order = np.argsort(rows, kind="stable")
    of_row, sums = rows[order], np.cumsum(amounts[order]) - amounts[order]
    out = np.empty(len(rows), np.int64)
    out[order] = sums - sums[np.searchsorted(of_row, of_row)]
    return out


def fill(layout: Layout, rows: Rows, plan: Plan, sequences: Sequences) -> dict[str, np.ndarray]:
    """Builds the model features of some windows of a batch.

    Args:
      layout: the shape of the whole batch.
      rows: the windows to build.
      plan: the placements of exactly the sequences in these windows.
      sequences: those sequences, in the order of the plan.

    Returns:
      ``encoder_input_tokens``, ``decoder_input_tokens``, ``decoder_target_tokens``, ``decoder_task_ids`` int32,
      ``decoder_loss_weights`` float32, each [rows, length]. Packed windows and shared encoders also have
      ``*_segment_ids`` (from 1; 0 is padding) and ``*_positions``, int32. Targets attend to the encoder segment with
      their own segment id; with a shared encoder, to that in ``decoder_cross_segment_ids``.
    """
    numbers = layout.numbers(rows)
    encoder_length, decoder_length = layout.encoder_length, layout.decoder_length
    local = np.searchsorted(numbers, plan.rows)
    encoder_at, encoder_index = _runs(local * encoder_length + plan.encoder_offsets, sequences.input_lengths)
    decoder_at, decoder_index = _runs(local * decoder_length + plan.decoder_offsets, sequences.target_lengths)

    def filled(length: int, at: np.ndarray, values: np.ndarray, dtype: DTypeLike = np.int32) -> np.ndarray:
        out = np.zeros(len(numbers) * length, dtype)
        out[at] = values
        return out.reshape(len(numbers), length)

    targets = sequences.targets
    shifted = np.roll(targets, 1)
    shifted[decoder_index == 0] = 0
    batch = {
        "encoder_input_tokens": filled(encoder_length, encoder_at, sequences.inputs),
        "decoder_input_tokens": filled(decoder_length, decoder_at, shifted),
        "decoder_target_tokens": filled(decoder_length, decoder_at, targets),
        "decoder_task_ids": filled(decoder_length, decoder_at, sequences.task_ids),
        "decoder_loss_weights": filled(decoder_length, decoder_at, sequences.weights, np.float32),
    }
    if layout.packed or layout.shared_encoder:
        sources = (plan.segments + 1) // 2 if layout.shared_encoder else plan.segments
        encoder_segments = np.repeat(sources, sequences.input_lengths)
        decoder_segments = np.repeat(plan.segments, sequences.target_lengths)
        batch["encoder_segment_ids"] = filled(encoder_length, encoder_at, encoder_segments)
        batch["encoder_positions"] = filled(encoder_length, encoder_at, encoder_index)
        batch["decoder_segment_ids"] = filled(decoder_length, decoder_at, decoder_segments)
        batch["decoder_positions"] = filled(decoder_length, decoder_at, decoder_index)
        if layout.shared_encoder:
            cross_segments = np.repeat(sources, sequences.target_lengths)
            batch["decoder_cross_segment_ids"] = filled(decoder_length, decoder_at, cross_segments)
    return batch


def _runs(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the flat indices of runs with the given starts and lengths, and each element's index in its run."""
    index = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + index, index


class Packer:
    """Plans and fills a batch from groups of token pairs in memory; see :class:`Planner`."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self._planner = Planner(layout)
        self._pairs: list[TokenPair] = []

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, group: Sequence[TokenPair]) -> bool:
        """Places the whole group and returns True, or places nothing and returns False; see :meth:`Planner.add`."""
        fits = self._planner.add([(len(pair.inputs), len(pair.targets)) for pair in group])
        if fits:
            self._pairs.extend(group)
        return fits

    def emit(self, rows: Rows = slice(None)) -> dict[str, np.ndarray]:
        """Returns the batch so far (only the given rows; see :func:`fill`), and resets the packer."""
        plan, pairs = self._planner.take(), self._pairs
        self._pairs = []
        mine = plan.inside(rows, self.layout)
        return fill(self.layout, rows, plan.take(mine), Sequences.of([pairs[number] for number in mine]))
