"""T5X models with the two-task loss: one for T5X's own networks, one for this project's network."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import seqio
from clu import metrics as clu_metrics
from flax import core as flax_core
from flax import linen as nn
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
from jaxtyping import Array, Float
from t5x import decoding, models, optimizers
from t5x import metrics as t5x_metrics

from distill.array_types import AnyArray
from distill.data.features import TwoTaskFeatureConverter
from distill.inference.evaluate import DecodeConfig
from distill.model.decoding import generate
from distill.model.network import ModelInputs, T5Config, Transformer
from distill.model.parameters import init_params, output_kernel, param_logical_axes
from distill.sharding.cross_entropy import weighted_cross_entropy
from distill.training.losses import TwoTaskLoss, task_token_weights
from distill.training.step import Metrics, effective_lambda, token_metrics

TOKEN_WEIGHTS = "decoder_token_weights"

Batch = Mapping[str, jax.Array]
Params = Any


def weigh(batch: Batch, loss: TwoTaskLoss, step: jax.Array) -> dict[str, jax.Array]:
    """Adds ``decoder_token_weights`` to a batch: [batch, length] float32, the two-task weights of its target tokens.

    Call it on the whole global batch. The loss is then a weighted sum and does not depend on how the batch is split.
    """
    weights = task_token_weights(
        batch["decoder_loss_weights"],
        batch["decoder_task_ids"],
        loss.coefficients(step),
        loss.normalizer,
        batch.get("decoder_segment_ids"),
    )
    return {**batch, TOKEN_WEIGHTS: weights}


def as_clu(metrics: Metrics) -> dict[str, clu_metrics.Metric]:
    """Converts (sum, count) pairs to CLU metrics: totals for token counts, else sum / count (NaN if the count is 0)."""
    return {
        name: t5x_metrics.Sum(total=total)
        if name.startswith("tokens/")
        else clu_metrics.Average(total=total, count=count)
        for name, (total, count) in metrics.items()
    }


class TwoTaskModel(models.EncoderDecoderModel):
    """T5X's encoder-decoder model with the two-task loss.

    It works with the networks of ``t5x.examples.t5`` and ``t5x.examples.scalable_t5``. Their last layer, which computes
    the logits, is skipped: the loss computes logits from the hidden states, in chunks, in float32 (as T5X does). T5X's
    own loss holds several ``[batch, length, vocab]`` arrays.

    Train it with :class:`distill.t5x.trainer.TwoTaskTrainer`, which computes token weights on the whole batch and then
    cuts it into micro-batches. With T5X's own trainer, or in a precompilation, the weights are computed from the rows
    of each (micro-)batch, which is equal only without micro-batches.
    """

    FEATURE_CONVERTER_CLS = TwoTaskFeatureConverter

    def __init__(
        self,
        module: nn.Module,
        input_vocabulary: seqio.Vocabulary,
        output_vocabulary: seqio.Vocabulary,
        optimizer_def: "optimizers.OptimizerDefType | None",
        loss: TwoTaskLoss = TwoTaskLoss(),
        chunk_tokens: int = 0,
        decode_fn: Callable[..., tuple[jax.Array, jax.Array]] = decoding.beam_search,
        feature_converter_cls: Callable[..., seqio.FeatureConverter] | None = None,
        default_decoder_params: "models.DecoderParams | None" = None,
    ):
        """Arguments in addition to those of T5X's model:

        loss: the weights of the tasks, z-loss and label smoothing.
        chunk_tokens: logits are materialised for at most this many target positions (batch × length); 0 does not chunk.

        Raises:
          ValueError: the loss has a mutual-information term.
        """
        if loss.mutual_information is not None:
            raise ValueError(
                f"T5X runs have no mutual-information term, which needs FORM=shared; got {loss.mutual_information}: set "
                "MUTUAL_INFORMATION=None, or train with `distill train`"
            )
        super().__init__(
            module=module,
            input_vocabulary=input_vocabulary,
            output_vocabulary=output_vocabulary,
            optimizer_def=optimizer_def,
            decode_fn=decode_fn,
            feature_converter_cls=feature_converter_cls,
            default_decoder_params=default_decoder_params,
            label_smoothing=loss.label_smoothing,
            z_loss=loss.z_loss,
        )
        self.loss = loss
        self.chunk_tokens = chunk_tokens

    def loss_fn(
        self, params: Params, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[Float[Array, ""], dict[str, clu_metrics.Metric]]:
        """Returns the two-task loss of a (micro-)batch and its metrics.

        Raises:
          ValueError: λ is a schedule and the batch has no token weights, which only a trainer that knows the step can
            compute.
        """
        if TOKEN_WEIGHTS not in batch:
            if callable(self.loss.lam):
                raise ValueError(
                    f"λ is a schedule, but the batch has no {TOKEN_WEIGHTS!r}, and the step is not known here; train "
                    "with distill.t5x.trainer.TwoTaskTrainer"
                )
            batch = weigh(batch, self.loss, jnp.int32(0))
        hidden, kernel = self._hidden_and_kernel(params, batch, dropout_rng)
        value, stats = weighted_cross_entropy(
            hidden,
            kernel,
            batch["decoder_target_tokens"],
            batch[TOKEN_WEIGHTS],
            self.loss.z_loss,
            self.loss.label_smoothing,
            self.chunk_tokens,
            batch["decoder_loss_weights"] > 0.0,
        )
        metrics = token_metrics(batch, stats)
        metrics["effective_lambda"] = effective_lambda(batch[TOKEN_WEIGHTS], batch["decoder_task_ids"])
        return value, {
            "loss": t5x_metrics.AveragePerStep(total=value),
            **as_clu(metrics),
            **_throughput(batch["decoder_target_tokens"]),
        }

    def _hidden_and_kernel(
        self, params: Params, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[Float[Array, "batch length embed"], Float[AnyArray, "embed vocab"]]:
        """Returns the decoder's output before the logits, float32, and the kernel that maps it to logits."""

        def step_over(
            next_fun: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            context: nn.module.InterceptorContext,
        ) -> Any:
            at = (context.module.name, context.method_name)
            if at in (("logits_dense", "__call__"), ("token_embedder", "attend")):
                return args[0]
            return next_fun(*args, **kwargs)

        with nn.intercept_methods(step_over):
            hidden = self._compute_logits(params, batch, dropout_rng)
        separate = params["decoder"].get("logits_dense")
        kernel = params["token_embedder"]["embedding"].T if separate is None else separate["kernel"]
        if hidden.shape[-1] != kernel.shape[0]:
            raise ValueError(
                f"{type(self.module).__name__} computes its logits neither by 'logits_dense' nor by 'token_embedder': "
                f"expected hidden states of width {kernel.shape[0]}; got {hidden.shape}"
            )
        return hidden.astype(jnp.float32), kernel


class ProjectNetworkModel(TwoTaskModel):
    """:class:`TwoTaskModel` for this project's network and decoder, with T5X's training loop, mesh and checkpoints.

    Parameters have T5X's names, shapes and logical axes, so they work with T5X's checkpoints, partitioner and
    Adafactor.
    """

    def __init__(
        self,
        config: T5Config,
        input_vocabulary: seqio.Vocabulary,
        output_vocabulary: seqio.Vocabulary,
        optimizer_def: "optimizers.OptimizerDefType | None",
        loss: TwoTaskLoss = TwoTaskLoss(),
        chunk_tokens: int = 0,
        decode: DecodeConfig = DecodeConfig(),
        feature_converter_cls: Callable[..., seqio.FeatureConverter] | None = None,
        default_decoder_params: "models.DecoderParams | None" = None,
    ):
        """``config`` is the network's configuration. All of ``decode`` applies, except lengths.

        Raises:
          ValueError: answers are to be chosen, which T5X's evaluation does not do.
        """
        if decode.answers != "generate":
            raise ValueError(
                f"DecodeConfig.answers must be 'generate' in T5X; got {decode.answers!r}: use distill eval"
            )
        super().__init__(
            Transformer(config),
            input_vocabulary,
            output_vocabulary,
            optimizer_def,
            loss=loss,
            chunk_tokens=chunk_tokens,
            feature_converter_cls=feature_converter_cls,
            default_decoder_params=default_decoder_params,
        )
        self.config = config
        self.decode = decode

    def get_initial_variables(
        self,
        rng: jax.Array,
        input_shapes: Mapping[str, Any],
        input_types: Mapping[str, Any] | None = None,
    ) -> flax_core.FrozenDict:
        """Returns ``params``, and ``params_axes`` with T5X's axis metadata. The input shapes do not matter."""
        del input_shapes, input_types
        axes = traverse_util.flatten_dict(param_logical_axes(self.config))
        named = {
            (*path[:-1], f"{path[-1]}_axes"): flax_partitioning.AxisMetadata(names=tuple(names))
            for path, names in axes.items()
        }
        return flax_core.freeze(
            {"params": init_params(self.config, rng), "params_axes": traverse_util.unflatten_dict(named)}
        )

    def _compute_logits(
        self,
        params: Params,
        batch: Batch,
        dropout_rng: jax.Array | None = None,
        mutable: bool | str | Collection[str] | flax_core.DenyList = False,
        other_variables: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.module.apply(
            {"params": params, **(other_variables or {})},
            ModelInputs.of(batch),
            deterministic=dropout_rng is None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            mutable=mutable,
        )

    def _hidden_and_kernel(
        self, params: Params, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[Float[Array, "batch length embed"], Float[AnyArray, "embed vocab"]]:
        hidden = self.module.apply(
            {"params": params},
            ModelInputs.of(batch),
            deterministic=dropout_rng is None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            method=Transformer.hidden,
        )
        return hidden, output_kernel(flax_core.unfreeze(params), self.config)

    def predict_batch_with_aux(
        self,
        params: Params,
        batch: Batch,
        rng: jax.Array | None = None,
        decoder_params: Mapping[str, Any] | None = None,
        return_all_decodes: bool | None = None,
        num_decodes: int | None = None,
        prompt_with_targets: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Decodes with :func:`distill.model.decoding.generate`, up to the length of ``decoder_input_tokens``.

        Args:
          params: the network's parameters.
          batch: model features, unpacked.
          rng: for ``sample``.
          decoder_params: arguments of ``generate`` that override those of ``decode``.
          return_all_decodes: whether to return all ``num_decodes`` results per row, in T5X's order (best last), instead
            of the best one.
          num_decodes: results per row, and beams of a beam search (at least ``decode.num_beams``).
          prompt_with_targets: must be False: this decoder does not support prompts.

        Returns:
          int32 tokens [batch, length] (or [batch, num_decodes, length]), and ``scores``: the log-probabilities of the
          results, without a length penalty.

        Raises:
          ValueError: ``prompt_with_targets`` is True.
        """
        if prompt_with_targets:
            raise ValueError("prompt_with_targets=True requires T5X's own networks and decoders; use TwoTaskModel")
        everything = (
            self._default_decoder_params.return_all_decodes if return_all_decodes is None else return_all_decodes
        )
        number = self._default_decoder_params.num_decodes if num_decodes is None else num_decodes
        decode = self.decode
        arguments = {
            "method": decode.method,
            "temperature": decode.temperature,
            "top_k": decode.top_k,
            "num_beams": max(decode.num_beams, number),
            "length_penalty": decode.length_penalty,
            "beam_rule": decode.beam_rule,
            "weights": decode.weights,
            **(decoder_params or {}),
        }
        decoded = generate(
            self.config,
            flax_core.unfreeze(params),
            batch["encoder_input_tokens"],
            max_decode_len=batch["decoder_input_tokens"].shape[1],
            num_return=number if everything else 1,
            rng=rng if arguments["method"] == "sample" else None,
            eos_id=self.output_vocabulary.eos_id or 1,
            **arguments,
        )
        tokens, scores = decoded
        if not everything:
            return tokens, {"scores": scores}
        if number == 1:
            return tokens[:, None], {"scores": scores[:, None]}
        return tokens[:, ::-1], {"scores": scores[:, ::-1]}


def _throughput(targets: jax.Array) -> dict[str, clu_metrics.Metric]:
    """T5X's timing metrics, those that need no logits."""
    return {
        "timing/seconds": t5x_metrics.Time(),
        "timing/steps_per_second": t5x_metrics.StepsPerTime.from_model_output(),
        "timing/seqs_per_second": t5x_metrics.TimeRate.from_model_output(numerator=jnp.float32(targets.shape[0])),
        "timing/target_tokens_per_second": t5x_metrics.TimeRate.from_model_output(numerator=jnp.float32(targets.size)),
    }
