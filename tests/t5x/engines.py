"""The same small student in T5X's network, in T5X's scalable network and in this project's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from flax import core as flax_core
from t5x import adafactor, decoding, models
from t5x.examples.scalable_t5 import network as scalable_network
from t5x.examples.t5 import network as t5_network

from distill.data.features import pack_batches
from distill.data.packing import Layout, TokenPair
from distill.model.network import T5Config
from distill.model.parameters import init_params
from distill.t5x.model import ProjectNetworkModel, TwoTaskModel
from distill.tasks import task_ids
from distill.training.losses import TwoTaskLoss

VOCABULARY = seqio.ByteVocabulary()
VOCAB = 384
CONFIG = T5Config(
    vocab_size=VOCAB,
    embed_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.0,
)
SCANNED = dataclasses.replace(CONFIG, scan_layers=True, relative_bias_per_layer=True)
ADAFACTOR = {"decay_rate": 0.8, "min_dim_size_to_factor": 16}


def optimizer():
    return adafactor.Adafactor(**ADAFACTOR, logical_factor_rules=adafactor.standard_logical_factor_rules())


def _t5_arguments(config: T5Config) -> dict:
    return {
        "vocab_size": config.vocab_size,
        "dtype": jnp.float32,
        "emb_dim": config.embed_dim,
        "num_heads": config.num_heads,
        "num_encoder_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "head_dim": config.head_dim,
        "mlp_dim": config.mlp_dim,
        "mlp_activations": config.mlp_activations,
        "dropout_rate": config.dropout_rate,
        "logits_via_embedding": config.logits_via_embedding,
    }


def t5_module(config: T5Config = CONFIG):
    """T5X's network of that shape: the scalable one if layers are scanned."""
    arguments = _t5_arguments(config)
    if config.scan_layers:
        scalable = scalable_network.T5Config(**arguments, scan_layers=True, remat_policy="none")
        return scalable_network.Transformer(config=scalable)
    return t5_network.Transformer(config=t5_network.T5Config(**arguments))


def two_task_model(config: T5Config = CONFIG, loss: TwoTaskLoss = TwoTaskLoss(), **kwargs) -> TwoTaskModel:
    kwargs.setdefault("decode_fn", decoding.beam_search)
    return TwoTaskModel(t5_module(config), VOCABULARY, VOCABULARY, optimizer(), loss=loss, **kwargs)


def project_model(config: T5Config = CONFIG, loss: TwoTaskLoss = TwoTaskLoss(), **kwargs) -> ProjectNetworkModel:
    return ProjectNetworkModel(config, VOCABULARY, VOCABULARY, optimizer(), loss=loss, **kwargs)


def plain_t5x_model(config: T5Config = CONFIG, **kwargs) -> models.EncoderDecoderModel:
    return models.EncoderDecoderModel(t5_module(config), VOCABULARY, VOCABULARY, optimizer(), **kwargs)


def params_of(config: T5Config = CONFIG, seed: int = 0):
    return flax_core.unfreeze(init_params(config, jax.random.key(seed)))


def to_t5x(params, config: T5Config):
    """Parameters in the layout of T5X's network: the scalable one has separate axes for heads and head_dim."""
    if not config.scan_layers:
        return params
    heads = (config.num_heads, config.head_dim)

    def split(path, leaf):
        names = [key.key for key in path]
        if names[-2] in ("query", "key", "value"):
            return leaf.reshape(*leaf.shape[:2], *heads)
        if names[-2] == "out":
            return jnp.moveaxis(leaf.reshape(*heads, *leaf.shape[1:]), 1, 2)
        return leaf

    return jax.tree_util.tree_map_with_path(split, params)


def from_t5x(params, config: T5Config):
    """The inverse of :func:`to_t5x`."""
    if not config.scan_layers:
        return params

    def join(path, leaf):
        names = [key.key for key in path]
        if names[-2] in ("query", "key", "value"):
            return leaf.reshape(*leaf.shape[:2], -1)
        if names[-2] == "out":
            leaf = jnp.moveaxis(leaf, 1, 2)
            return leaf.reshape(-1, *leaf.shape[2:])
        return leaf

    return jax.tree_util.tree_map_with_path(join, params)


def pairs(number: int, seed: int = 0) -> list[list[TokenPair]]:
    """Label and rationale sequences over the same inputs; row weights differ, and one row has lost its rationale."""
    rng = np.random.default_rng(seed)
    groups = []
    for row in range(number):
        inputs = rng.integers(3, VOCAB, rng.integers(3, 9)).astype(np.int32)
        group = []
        for task, longest in ((task_ids.LABEL, 4), (task_ids.RATIONALE, 9)):
            if row == 2 and task == task_ids.RATIONALE:
                continue
            targets = np.append(rng.integers(3, VOCAB, rng.integers(1, longest)), 1).astype(np.int32)
            weights = np.full(len(targets), 0.5 if row == 1 and task == task_ids.RATIONALE else 1.0, np.float32)
            group.append(
                TokenPair(np.append(inputs, task).astype(np.int32), targets, np.full_like(targets, task), weights)
            )
        groups.append(group)
    return groups


def batches(
    number: int, packed: bool, rows: int = 8, examples: int = 4, lengths=(24, 24)
) -> list[dict[str, np.ndarray]]:
    """Different batches of ``rows`` windows each."""
    layout = Layout(rows, *lengths, packed=packed)
    made = [list(pack_batches(iter(pairs(examples, seed)), layout)) for seed in range(number)]
    assert all(len(one) == 1 for one in made)
    return [one[0] for one in made]


def on_device(batch):
    return {name: jnp.asarray(value) for name, value in batch.items()}
