"""A T5X trainer whose step computes token weights on the whole global batch, before it cuts micro-batches."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from clu.metrics import Metric
from t5x import trainer as t5x_trainer
from t5x.train_state import TrainState

from distill.t5x.model import Batch, TwoTaskModel, weigh


class TwoTaskTrainer(t5x_trainer.Trainer):
    """T5X's trainer for :class:`distill.t5x.model.TwoTaskModel`.

    The step is T5X's own (micro-batches, learning rate, weight metrics), on a batch with token weights. These are
    computed inside the partitioned function, where the batch is the global one for any mesh.
    """

    def __init__(self, *, schedule_offset: int = 0, **kwargs: Any):
        """As ``t5x.trainer.Trainer``, with one more argument.

        Args:
          schedule_offset: the step at which a schedule of λ starts. T5X continues the pretrained checkpoint's step
            count.
          **kwargs: arguments of T5X's trainer.

        Raises:
          TypeError: the model is not a :class:`TwoTaskModel`.
        """
        if not isinstance(kwargs.get("model"), TwoTaskModel):
            got = type(kwargs.get("model")).__name__
            raise TypeError(
                f"TwoTaskTrainer trains a TwoTaskModel (gin/t5x/models/two_task.gin configures one); got {got}"
            )
        super().__init__(**kwargs)
        self._schedule_offset = schedule_offset

    def _weigh(self, batch: Any, step: jax.Array) -> dict[str, jax.Array]:
        # T5X restores the step of a checkpoint as float32; a schedule of λ takes an integer.
        return weigh(batch, self._model.loss, (step - self._schedule_offset).astype(jnp.int32))

    @functools.cached_property
    def _partitioned_train_step(self) -> Callable[..., Any]:
        spec = self._partitioner.data_partition_spec

        def train_step(train_state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Metric]]:
            return t5x_trainer.train_with_lr(
                train_state,
                self._weigh(batch, train_state.step),
                learning_rate=self._learning_rate_fn(train_state.step),
                dropout_rng=self._get_step_rng(train_state.step),
                model=self._model,
                num_microbatches=self._num_microbatches,
                weight_metrics_computer=self._weight_metrics_computer,
                data_partition_spec=spec,
            )

        return self._partitioner.partition(
            train_step,
            in_axis_resources=(self._train_state_axes, spec),
            out_axis_resources=(self._train_state_axes, None),
            donate_argnums=(0,),
        )

    @functools.cached_property
    def _partitioned_eval_step(self) -> Callable[..., Any]:
        def eval_step(train_state: TrainState, batch: Batch) -> Mapping[str, Metric]:
            return t5x_trainer.eval_step(self._model, train_state, self._weigh(batch, train_state.step))

        return self._partitioner.partition(
            eval_step,
            in_axis_resources=(self._train_state_axes, self._partitioner.data_partition_spec),
            out_axis_resources=None,
        )
