"""Scoring of target tokens given the target tokens before them: validation of pretraining, where nothing is decoded."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from jaxtyping import Array, Float

from distill import stuck
from distill.inference import answering
from distill.inference.choosing import target_stats
from distill.inference.decoder import Decoder
from distill.inference.evaluate import Evaluation, Evaluator, check_split
from distill.model.parameters import Params
from distill.sharding import partitioning
from distill.tasks import reading, registration

METRICS = ("accuracy", "loss")


class TokenEvaluator(Evaluator):
    """A span-corruption task's split, scored token by token without decoding.

    Its metrics are ``accuracy``, the share of target tokens that are the argmax given the tokens before them, and
    ``loss``, their mean cross-entropy in nats. Both count sentinels and EOS. There are no rows.

    Args:
      task_name: a registered task of form ``spans``.
      split: SeqIO split.
      decoder: gives the student, the mesh and the number of rows scored together; only its settings are used.
      max_examples: number of windows to score, from the first; None scores all.

    Raises:
      ValueError: no such task or split, or a split without a window of text.
    """

    def __init__(self, task_name: str, split: str, decoder: Any, *, max_examples: int | None = None):
        task = seqio.TaskRegistry.get(task_name)
        check_split(task, split)
        self.task, self.split, self._decoder = task, split, decoder
        # The spans that are drawn are the same at every step and in every run.
        windows = list(reading.examples(task, split, limit=max_examples))
        if not windows:
            spans = registration.spans_of(task)
            assert spans is not None
            raise ValueError(
                f"task {task_name!r}: the text of split {split!r} is shorter than one window of {spans.window} tokens; "
                "give more text in FILES, a smaller TASK_FEATURE_LENGTHS['inputs'], or a larger validation share, "
                "corpus.dataset.validation_fraction"
            )
        self._input_tokens: np.ndarray = np.stack([window["inputs"] for window in windows]).astype(np.int32)
        self._target_tokens: np.ndarray = np.stack([window["targets"] for window in windows]).astype(np.int32)
        self._score = jax.jit(self._scores) if isinstance(decoder, Decoder) else None

    def __len__(self) -> int:
        return len(self._target_tokens)

    def _metrics(self) -> list[str]:
        return list(METRICS)

    def check_lengths(self, max_decode_len: int) -> str | None:
        """Returns None: nothing is decoded."""
        del max_decode_len
        return None

    def fit(self, max_input_len: int, trained_input_len: int) -> answering.Fit:
        """Windows have the length of the training's."""
        del max_input_len, trained_input_len
        return answering.Fit()

    def __call__(self, params: Any) -> Evaluation:
        """Scores the split with ``params``."""
        assert self._score is not None
        rows, mesh = self._decoder.rows, self._decoder.mesh
        sharding = partitioning.batch_sharding(mesh)
        losses, correct, number = 0.0, 0.0, 0
        for start in range(0, len(self), rows):
            targets = _padded(self._target_tokens[start : start + rows], rows)
            batch = {
                "encoder_input_tokens": _padded(self._input_tokens[start : start + rows], rows),
                "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
                "decoder_target_tokens": targets,
            }
            found = jax.device_get(self._score(params, jax.device_put(batch, sharding)))
            stuck.alive()
            losses, correct, number = (
                losses + float(found[0]),
                correct + float(found[1]),
                number + int((targets > 0).sum()),
            )
        return Evaluation({"accuracy": correct / number, "loss": losses / number}, [])

    def _scores(self, params: Params, batch: dict[str, jax.Array]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The sums over target tokens of the cross-entropy and of right predictions."""
        counted = batch["decoder_target_tokens"] > 0
        loss, stats = target_stats(self._decoder.model, params, batch, counted)
        return loss, jnp.sum(stats.correct & counted, dtype=jnp.float32)


def _padded(tokens: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(tokens, ((0, rows - len(tokens)), (0, 0)))


def evaluator(task_name: str, split: str, decoder: Any, *, max_examples: int | None = None) -> Evaluator:
    """The evaluator of a task: a :class:`TokenEvaluator` for span corruption, else one that decodes."""
    task = registration.get(task_name)
    scored = isinstance(task, seqio.Task) and registration.spans_of(task) is not None
    return (TokenEvaluator if scored else Evaluator)(task_name, split, decoder, max_examples=max_examples)
