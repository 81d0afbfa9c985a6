"""Decoding lists of inputs in batches of similar length. Imports neither TensorFlow nor SeqIO: serving uses it alone."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from distill import stuck, validation
from distill.data.trimming import EOS_ID, cut
from distill.model import decoding, int8
from distill.model.configs import NetworkConfig
from distill.model.parameters import Params, in_compute_dtype, param_logical_axes
from distill.model.t5gemma_config import T5GemmaConfig
from distill.sharding import partitioning
from distill.tasks import row_fields
from distill.tasks.records import RowError
from distill.validation import quoted

ANSWERS = ("generate", "choose")
_METHOD_OF = {
    "temperature": "sample",
    "top_k": "sample",
    "num_beams": "beam",
    "length_penalty": "beam",
    "beam_rule": "beam",
}


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """How answers are decoded.

    Attributes:
      max_decode_len: maximum number of target tokens, EOS included.
      max_input_len: longest input; longer ones are truncated (and counted).
      batch_size: rows decoded together (global).
      method: ``greedy``, ``sample`` or ``beam``.
      temperature, top_k: of ``sample``.
      num_beams, length_penalty, beam_rule: of ``beam``, see :func:`distill.model.decoding.generate`.
      bucket: the shortest length that inputs are padded to; see :func:`bucket_lengths`.
      seed: of ``sample``.
      param_gather: ``layer`` all-gathers FSDP-sharded parameters in each layer, for every token; ``decoder`` and ``step``
        all-gather all of them once per batch, in the compute dtype.
      weights: ``compute`` reads weights in the compute dtype; ``int8`` quantizes them first, see
        :mod:`distill.model.int8`.
      answers: ``generate`` decodes labels; ``choose`` takes the most probable of a row's choices, see
        :mod:`distill.inference.choosing`. Rationales are decoded in both.
      choices: with ``choose``, the choices of all rows, kept as texts; empty: each row has its own.
      normalize_by_target_length: whether choices are ranked by their log-probability per token, as SeqIO's
        ``rank_classification`` can; by default, by that of the whole text, which favours short choices.
    """

    max_decode_len: int = 64
    max_input_len: int = 1024
    batch_size: int = 64
    method: str = "greedy"
    temperature: float = 1.0
    top_k: int = 0
    num_beams: int = 4
    length_penalty: float = 0.6
    beam_rule: str = "huggingface"
    bucket: int = 32
    seed: int = 0
    param_gather: str = "layer"
    weights: str = "compute"
    answers: str = "generate"
    choices: tuple[str | int | float, ...] | list[str | int | float] = ()
    normalize_by_target_length: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", _checked(self.choices))
        validation.check("DecodeConfig.answers", self.answers, ANSWERS)
        validation.check("DecodeConfig.param_gather", self.param_gather, partitioning.PARAM_GATHERS)
        validation.check("DecodeConfig.method", self.method, decoding.METHODS)
        validation.check("DecodeConfig.weights", self.weights, int8.WEIGHTS)
        validation.check("DecodeConfig.beam_rule", self.beam_rule, decoding.BEAM_RULES)
        for name in ("max_decode_len", "max_input_len", "batch_size", "num_beams", "bucket"):
            validation.check_range(f"DecodeConfig.{name}", getattr(self, name), "≥ 1")
        validation.check_range("DecodeConfig.top_k", self.top_k, "≥ 0")
        if self.method == "sample":
            decoding.check_temperature("DecodeConfig.temperature", self.temperature)
        if self.choices and self.answers != "choose":
            raise ValueError(
                f"DecodeConfig.choices is given, and DecodeConfig.answers is {self.answers!r}; set it to 'choose', too"
            )
        if self.answers == "choose" and self.weights == "int8":
            raise ValueError(
                "DecodeConfig.answers = 'choose' reads float weights, and DecodeConfig.weights is 'int8'; leave one of "
                "them at its default"
            )

    def in_effect(self) -> dict[str, Any]:
        """The settings that answers depend on, without those of other methods and of how answers are not made.

        >>> DecodeConfig(method="beam", num_beams=2).in_effect()["num_beams"], "num_beams" in DecodeConfig().in_effect()
        (2, False)
        """
        if self.answers == "choose":
            names = ["answers", "choices", "normalize_by_target_length", "max_input_len"]
        else:
            names = ["answers", "method", *(name for name, method in _METHOD_OF.items() if method == self.method)]
            names += ["seed", "batch_size", "bucket"] if self.method == "sample" else []
            names += ["max_decode_len", "max_input_len", "weights"]
        found = {name: getattr(self, name) for name in names}
        return found | {"choices": "those of each row"} if found.get("choices") == () else found

    def unused(self, chooses: bool | None = None) -> list[str]:
        """Warnings of settings that change nothing.

        Args:
          chooses: whether answers are chosen; None: if ``answers`` is ``choose``.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        found = [
            f"DecodeConfig.{name}={getattr(self, name)!r} changes nothing: it is a setting of method={method!r}, and "
            f"DecodeConfig.method is {self.method!r}; set the method, or leave it out"
            for name, method in _METHOD_OF.items()
            if method != self.method and getattr(self, name) != defaults[name]
        ]
        if self.normalize_by_target_length and not (self.answers == "choose" if chooses is None else chooses):
            found.append(
                "DecodeConfig.normalize_by_target_length=True changes nothing: it ranks choices, and answers are "
                "generated; choose them (DecodeConfig.answers='choose', or choices), or leave it out"
            )
        return found


def _checked(choices: Any) -> tuple[str, ...]:
    expected = "DecodeConfig.choices must be a list of two or more different texts, such as ['yes', 'no']"
    if choices and not isinstance(choices, list | tuple):
        raise ValueError(f"{expected}; got {quoted(choices)} ({type(choices).__name__})")
    try:
        return row_fields.choices_of_all(list(choices)) if choices else ()
    except RowError as error:
        raise ValueError(f"{expected}; got {quoted(choices)}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One decoded sequence.

    Attributes:
      tokens: int32 ids without EOS and padding.
      log_prob: the sum of its tokens' log-probabilities (nats).
      cut: whether it reached ``max_decode_len`` without EOS.
    """

    tokens: np.ndarray
    log_prob: float
    cut: bool = False


def bucket_lengths(shortest: int, longest: int, steps: int = 2) -> list[int]:
    """Window lengths to choose from: ``shortest`` times powers of two, equal steps between two neighbours, and ``longest``.

    A row longer than ``shortest`` is padded by at most ``1 / steps`` of its length.

    Args:
      shortest: the first length.
      longest: the last length.
      steps: lengths per power of two: this compiles at most as many times the programs of powers of two alone.

    >>> bucket_lengths(32, 150), bucket_lengths(32, 150, steps=4)
    ([32, 48, 64, 96, 128, 150], [32, 40, 48, 56, 64, 80, 96, 112, 128, 150])
    """
    lengths = {longest}
    length = shortest
    while length < longest:
        lengths.update(one for step in range(steps) if (one := length + length * step // steps) < longest)
        length *= 2
    return sorted(lengths)


@functools.lru_cache(maxsize=8)
def _program(model: NetworkConfig, mesh: Mesh, config: DecodeConfig, rules: partitioning.Rules) -> jax.stages.Wrapped:
    """Returns the jitted decoding of a batch: parameters, tokens, key, prompt → :class:`decoding.Decoded`.

    It is kept for the process: runs of one sweep, and students of one shape, trace and compile it once.

    Args:
      rules: those in force where it is called, of which JAX's own cache knows nothing.
    """
    del rules

    def run(params: Params, tokens: jax.Array, rng: jax.Array, prompt: tuple[int, ...]) -> decoding.Decoded:
        if config.param_gather != "layer":
            dtype: str | None = model.dtype
            axes = param_logical_axes(model)
            if config.weights == "int8":
                params, axes = int8.with_int8_weights(params, model), int8.int8_logical_axes(axes, model)
            if config.weights == "int8" or isinstance(model, T5GemmaConfig):  # whose norms stay float32
                params, dtype = in_compute_dtype(params, model), None
            params = partitioning.whole_copies(params, axes, dtype)
        return decoding.generate(
            model,
            params,
            tokens,
            max_decode_len=config.max_decode_len,
            method=config.method,
            temperature=config.temperature,
            top_k=config.top_k,
            num_beams=config.num_beams,
            length_penalty=config.length_penalty,
            beam_rule=config.beam_rule,
            rng=rng,
            prompt=prompt,
            weights=config.weights,
        )

    return jax.jit(run, out_shardings=partitioning.replicated(mesh), static_argnums=3)


class Decoder:
    """Decodes lists of inputs in batches of similar length; compiles once per length.

    A list shorter than a batch is padded to a power of two of rows only, which compiles a program of its own.

    Args:
      model: the student.
      mesh: rows are sharded over its ``data`` and ``fsdp`` axes.
      config: how to decode.
    """

    def __init__(self, model: NetworkConfig, mesh: Mesh, config: DecodeConfig):
        self.model, self.config, self.mesh = model, config, mesh
        self._shards = partitioning.batch_shards(mesh)
        self._rows = math.ceil(config.batch_size / self._shards) * self._shards
        # CPUs compile fast and compute slowly.
        steps = 4 if mesh.devices.flat[0].platform == "cpu" else 2
        self._lengths = bucket_lengths(min(config.bucket, config.max_input_len), config.max_input_len, steps)

    def _run(self) -> jax.stages.Wrapped:
        return _program(self.model, self.mesh, self.config, tuple(nn.get_logical_axis_rules()))

    @property
    def rows(self) -> int:
        """Rows of a full batch, a multiple of the shards that rows are divided into."""
        return self._rows

    def _rows_of(self, inputs: int) -> int:
        """Rows of the batches of a number of inputs: all, or the first power of two per shard that holds the inputs."""
        each = math.ceil(inputs / self._shards)
        return min(self._rows, self._shards << (each - 1).bit_length())

    def __call__(self, params: Any, inputs: Sequence[np.ndarray], prompt: Sequence[int] = ()) -> list[Prediction]:
        """Decodes ``inputs`` and returns predictions in their order.

        Args:
          params: the student's.
          inputs: int32 ids with EOS.
          prompt: token ids that every target begins with, see :func:`distill.model.decoding.generate`.
        """
        run = self._run()
        out: list[Prediction | None] = [None] * len(inputs)
        for indices, tokens in self.batches(inputs):
            rng = jax.random.fold_in(jax.random.key(self.config.seed), indices[0])
            placed = jax.device_put(tokens, partitioning.batch_sharding(self.mesh))
            decoded = jax.device_get(run(params, placed, rng, tuple(prompt)))
            stuck.alive()
            for row, index in enumerate(indices):
                out[index] = _prediction(decoded.tokens[row], float(decoded.log_probs[row]))
        return [prediction for prediction in out if prediction is not None]

    def lower(self, params: Any, length: int) -> tuple[jax.stages.Lowered, jax.ShapeDtypeStruct]:
        """Lowers the decoding of one batch, without a prompt, for compilation ahead of time.

        Args:
          params: shapes and shardings of the parameters.
          length: tokens that every input is padded to.

        Returns:
          The lowered step, and the shape of its inputs: int32 [rows, length].
        """
        tokens = jax.ShapeDtypeStruct((self._rows, length), np.int32, sharding=partitioning.batch_sharding(self.mesh))
        key = jax.eval_shape(jax.random.key, self.config.seed)
        rng = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=partitioning.replicated(self.mesh))
        return self._run().lower(params, tokens, rng, ()), tokens

    def batches(self, inputs: Sequence[np.ndarray]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yields rows of similar length: their numbers, and their ids, int32 [rows, length], cut and padded."""
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        rows = self._rows_of(len(inputs))
        for start in range(0, len(order), rows):
            indices = order[start : start + rows]
            longest = min(len(inputs[indices[-1]]), self.config.max_input_len)
            length = next(n for n in self._lengths if n >= longest)
            tokens = np.zeros((rows, length), np.int32)
            for row, index in enumerate(indices):
                short = cut(np.asarray(inputs[index], np.int32), self.config.max_input_len)
                tokens[row, : len(short)] = short
            yield indices, tokens


def _prediction(tokens: np.ndarray, log_prob: float) -> Prediction:
    ends = np.flatnonzero(tokens == EOS_ID)
    tokens = tokens[: ends[0]] if len(ends) else tokens
    return Prediction(np.array(tokens[tokens != 0]), log_prob, cut=not len(ends))
