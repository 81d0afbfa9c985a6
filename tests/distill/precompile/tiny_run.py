"""A tiny run, a step with round numbers, and the mark of tests that compile for TPUs, for the tests of this folder."""

import importlib.util
import os

import jax
import pytest

from distill.data.packing import Layout
from distill.inference.evaluate import DecodeConfig
from distill.model.network import T5Config
from distill.precompile import costs, steps
from distill.precompile.chips import CHIPS, GIB
from distill.training import optimizers
from distill.training.losses import TwoTaskLoss
from distill.training.train import LoopConfig

TINY = T5Config(
    vocab_size=384,
    embed_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
RUN = steps.Run(
    model=TINY,
    loss=TwoTaskLoss(lam=0.5),
    optimizer=optimizers.adafactor(1e-3),
    loop=LoopConfig(train_steps=3600),
    layout=Layout(8, 64, 32),
    decode=DecodeConfig(max_decode_len=4, max_input_len=32, batch_size=8),
)

if importlib.util.find_spec("libtpu") is not None:
    jax.devices()  # XLA for CPUs has now read its flags; libtpu ends a process that gives one it does not know
    os.environ["XLA_FLAGS"] = " ".join(f for f in os.environ.get("XLA_FLAGS", "").split() if "--xla_cpu" not in f)

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the compiler for TPUs, is not installed"
)


def step(**changes):
    """A step whose bound is one second of memory traffic on a v5e chip."""
    chip = CHIPS["v5e"]
    of = costs.Costs(
        flops=2e12,
        matmul_flops=0.5 * chip.device_flops,
        bytes_accessed=1e12,
        hbm_bytes=chip.device_hbm_bandwidth,
        collectives=(),
    )
    defaults = {
        "name": "train",
        "arguments": {"parameters": 3 * GIB, "optimizer state": GIB},
        "peak_bytes": 10 * GIB,
        "temporary_bytes": 6 * GIB,
        "code_bytes": GIB // 4,
        "costs": of,
        "seconds": 12.3,
    }
    return steps.CompiledStep(**defaults | changes)
