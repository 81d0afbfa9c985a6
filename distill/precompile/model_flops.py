"""Model FLOPs: the operations of a model's matrix products, the same on every device and with every compiler.

This is the one count of operations in forecasts (``distill sweep --dry_run``), in the log and the record of a run, in
reports, and in utilisation (MFU, as in appendix B of PaLM, Chowdhery et al. 2022). It contains all products of a forward
pass over whole windows, attention and padding included, and twice as many for the backward pass. It contains neither
recomputation nor elementwise operations nor the optimizer. ``distill precompile`` counts those of a compiled program
(:mod:`distill.precompile.costs`).
"""

import re

from distill.data.packing import Layout
from distill.model.config import T5Config
from distill.model.configs import NetworkConfig
from distill.model.parameters import flatten, param_shapes
from distill.model.t5gemma_config import StackConfig
from distill.training.trainable import Trainable


def forward_flops(model: NetworkConfig, layout: Layout) -> float:
    """Operations of all matmuls of one forward pass over a whole batch, without recomputation.

    All positions of a window count, including padding. Causal attention counts in full. The dense program computes
    both. Attention of local layers counts in full, too; the TPU kernel computes less of it, so that the utilisation of a
    step by this count may exceed 1.
    """
    inputs, targets, rows = layout.encoder_length, layout.decoder_length, layout.windows
    if not isinstance(model, T5Config):
        encoder, decoder = model.encoder, model.decoder
        cross = 2 * inputs * encoder.embed_dim * 2 * decoder.num_kv_heads * decoder.head_dim  # keys and values
        if not model.merged:
            cross += 4 * targets * decoder.embed_dim * decoder.num_heads * decoder.head_dim  # queries and output
        cross += 4 * inputs * targets * decoder.num_heads * decoder.head_dim
        logits = 2 * targets * decoder.embed_dim * model.vocab_size
        layers = encoder.num_layers * _layer_flops(encoder, inputs)
        layers += decoder.num_layers * (_layer_flops(decoder, targets) + cross)
        return float(rows * (layers + logits))
    width, joined = model.embed_dim, model.num_heads * model.head_dim
    projection = 2 * width * joined
    mlp = 2 * width * model.mlp_dim * (len(model.mlp_activations) + 1)
    reading = inputs * (4 * projection + mlp) + 4 * inputs**2 * joined
    own = targets * (4 * projection + mlp) + 4 * targets**2 * joined
    cross = 2 * targets * projection + 2 * inputs * projection + 4 * inputs * targets * joined
    logits = 2 * targets * width * model.vocab_size
    return float(rows * (model.num_encoder_layers * reading + model.num_decoder_layers * (own + cross) + logits))


def step_flops(model: NetworkConfig, layout: Layout, trainable: Trainable | None = None) -> float:
    """Operations of all matmuls of a training step on all devices: three forward passes, less what is frozen.

    Products of low-rank adapters do not count.

    Args:
      model: the student.
      layout: the windows of a global batch.
      trainable: the trained parameters; the gradients of all other kernels do not count. None: all are trained.
    """
    total = 3 * forward_flops(model, layout)
    if trainable is None:
        return total
    shapes = param_shapes(model)
    sizes = {path: leaf.size for path, leaf in flatten(shapes).items()}
    kernels = {path for path in sizes if path.endswith("/kernel")}
    if not any("/logits_dense/" in path for path in kernels):  # the table computes the logits
        tables = ("decoder_token_embedder/embedding", "token_embedder/embedding")
        kernels.add(next(path for path in tables if path in sizes))
    for path in kernels - trainable.names(shapes):
        total -= 2.0 * layout.windows * _positions(path, model, layout) * sizes[path]
    return total


def _positions(path: str, model: NetworkConfig, layout: Layout) -> int:
    """The positions of a window that the kernel at ``path`` is applied to."""
    inputs, targets = layout.encoder_length, layout.decoder_length
    if path.startswith("encoder/") or re.search("encoder_decoder_attention/(key|value)/", path):
        return inputs
    merged = not isinstance(model, T5Config) and model.merged
    return inputs + targets if merged and re.search("self_attention/(key|value)/", path) else targets


def _layer_flops(shape: StackConfig, length: int) -> int:
    """Operations of self-attention and feed-forward of one T5Gemma layer on one row."""
    queries, keys = (heads * shape.head_dim for heads in (shape.num_heads, shape.num_kv_heads))
    projections = 4 * shape.embed_dim * (queries + keys)
    return length * (projections + 6 * shape.embed_dim * shape.mlp_dim) + 4 * length**2 * queries
