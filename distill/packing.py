"""First-fit packing of (input, target) sequences into the fixed windows of one batch, in numpy."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class TokenPair:
    """One tokenised sequence pair, already cut to the window lengths.

    Attributes:
      inputs: int32 [n], encoder tokens with EOS.
      targets: int32 [m], decoder tokens with EOS.
      task_ids: int32 [m].
      weights: float32 [m].
    """

    inputs: np.ndarray
    targets: np.ndarray
    task_ids: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shape of a batch.

    Attributes:
      rows: windows in a batch (the global batch size).
      encoder_length: tokens of an encoder window.
      decoder_length: tokens of a decoder window.
      packed: whether a window may hold several sequences.
    """

    rows: int
    encoder_length: int
    decoder_length: int
    packed: bool = True

    def __post_init__(self):
        for name in ("rows", "encoder_length", "decoder_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"Layout.{name} must be ≥ 1; got {getattr(self, name)}")


class Packer:
    """Places groups of sequences into the windows of one batch; a group lands in the batch whole or not at all.

    First-fit with every window of the batch open. A paired example is a group of two, so its label and its rationale
    always meet in the same batch. Unpacked batches are the same thing with windows of one sequence.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self._clear()

    def _clear(self) -> None:
        rows = self.layout.rows
        self._encoder_used = np.zeros(rows, np.int64)
        self._decoder_used = np.zeros(rows, np.int64)
        self._segments = np.zeros(rows, np.int64)
        self._placed: list[tuple[int, int, int, int, TokenPair]] = []

    def __len__(self) -> int:
        return len(self._placed)

    def add(self, group: Sequence[TokenPair]) -> bool:
        """Places the whole group and returns True, or places nothing and returns False.

        Raises:
          ValueError: a sequence is longer than a window, or the group cannot fit an empty batch.
        """
        mark = len(self._placed)
        for sequence in group:
            row = self._first_fit(len(sequence.inputs), len(sequence.targets))
            if row is None:
                if mark == 0:
                    raise ValueError(
                        f"a group of {len(group)} sequences does not fit an empty batch of {self.layout.rows} windows"
                    )
                self._undo(mark)
                return False
            self._segments[row] += 1
            place = (row, int(self._segments[row]), int(self._encoder_used[row]), int(self._decoder_used[row]))
            self._placed.append((*place, sequence))
            self._encoder_used[row] += len(sequence.inputs)
            self._decoder_used[row] += len(sequence.targets)
        return True

    def _first_fit(self, encoder: int, decoder: int) -> int | None:
        layout = self.layout
        if encoder > layout.encoder_length or decoder > layout.decoder_length:
            raise ValueError(
                f"a sequence of {encoder} input and {decoder} target tokens is longer than the window "
                f"({layout.encoder_length}, {layout.decoder_length}); cut it first"
            )
        if not layout.packed:
            return len(self._placed) if len(self._placed) < layout.rows else None
        fits = (self._encoder_used + encoder <= layout.encoder_length) & (
            self._decoder_used + decoder <= layout.decoder_length
        )
        row = int(fits.argmax())
        return row if fits[row] else None

    def _undo(self, mark: int) -> None:
        for row, _, _, _, sequence in self._placed[mark:]:
            self._segments[row] -= 1
            self._encoder_used[row] -= len(sequence.inputs)
            self._decoder_used[row] -= len(sequence.targets)
        del self._placed[mark:]

    def emit(self, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The batch so far (the given rows of it), and an empty packer again.

        Returns:
          ``encoder_input_tokens``, ``decoder_input_tokens``, ``decoder_target_tokens``, ``decoder_task_ids`` int32,
          ``decoder_loss_weights`` float32, each [rows, length]; packed ones also ``*_segment_ids`` (from 1; 0 is
          padding) and ``*_positions``.
        """
        layout = self.layout
        start, stop, _ = rows.indices(layout.rows)
        mine = [p for p in self._placed if start <= p[0] < stop]
        self._clear()
        batch = {}
        encoder_at, encoder_index = _scatter_index(
            [(row - start) * layout.encoder_length + offset for row, _, offset, _, _ in mine],
            [len(s.inputs) for *_, s in mine],
        )
        decoder_at, decoder_index = _scatter_index(
            [(row - start) * layout.decoder_length + offset for row, _, _, offset, _ in mine],
            [len(s.targets) for *_, s in mine],
        )

        def fill(length, at, values, dtype=np.int32):
            out = np.zeros((stop - start) * length, dtype)
            out[at] = values
            return out.reshape(stop - start, length)

        def joined(field, dtype=np.int32):
            return np.concatenate([getattr(s, field) for *_, s in mine]) if mine else np.zeros(0, dtype)

        targets = joined("targets")
        shifted = np.roll(targets, 1)
        shifted[decoder_index == 0] = 0
        encoder_length, decoder_length = layout.encoder_length, layout.decoder_length
        batch["encoder_input_tokens"] = fill(encoder_length, encoder_at, joined("inputs"))
        batch["decoder_input_tokens"] = fill(decoder_length, decoder_at, shifted)
        batch["decoder_target_tokens"] = fill(decoder_length, decoder_at, targets)
        batch["decoder_task_ids"] = fill(decoder_length, decoder_at, joined("task_ids"))
        batch["decoder_loss_weights"] = fill(
            decoder_length, decoder_at, joined("weights", np.float32), dtype=np.float32
        )
        if layout.packed:
            segments = np.array([segment for _, segment, _, _, _ in mine], np.int32)
            encoder_segments = np.repeat(segments, [len(s.inputs) for *_, s in mine])
            decoder_segments = np.repeat(segments, [len(s.targets) for *_, s in mine])
            batch["encoder_segment_ids"] = fill(encoder_length, encoder_at, encoder_segments)
            batch["encoder_positions"] = fill(encoder_length, encoder_at, encoder_index)
            batch["decoder_segment_ids"] = fill(decoder_length, decoder_at, decoder_segments)
            batch["decoder_positions"] = fill(decoder_length, decoder_at, decoder_index)
        return batch


def _scatter_index(starts: Sequence[int], lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Flat destinations of concatenated runs, and each token's index in its run."""
    counts = np.asarray(lengths, np.int64)
    if counts.size == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    total = int(counts.sum())
    run_start = np.repeat(np.cumsum(counts) - counts, counts)
    index = np.arange(total) - run_start
    return np.repeat(np.asarray(starts, np.int64), counts) + index, index
