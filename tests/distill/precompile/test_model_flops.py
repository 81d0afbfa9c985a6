"""Model FLOPs: the products of the compiled step, less the gradients that are not computed."""

import dataclasses

import jax
import pytest

from distill.checkpoints.huggingface import gemma_config
from distill.data.packing import Layout
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
from distill.precompile import costs, model_flops
from distill.training import optimizers
from distill.training.config import LoopConfig
from tests.distill import gemma_models
from tests.distill.precompile.tiny_run import RUN, TINY

_STACK = StackConfig(1, 64, 96, 4, 2, 16, 16.0, 8, 2)
GEMMAS = [
    T5GemmaConfig(1, TINY.vocab_size, dataclasses.replace(_STACK, embed_dim=32), _STACK),
    T5GemmaConfig(2, TINY.vocab_size, _STACK, _STACK),
]
_FROZEN = ("mlp/", "(attention|self_attention)/query", "encoder_decoder_attention/key")


@pytest.mark.parametrize(
    ("model", "frozen"),
    [(TINY, None), (TINY, _FROZEN), *((model, None) for model in GEMMAS)],
    ids=["t5", "t5 partly frozen", "t5gemma", "t5gemma2"],
)
def test_model_flops_are_those_of_the_compiled_step(model, frozen):
    """On one host device, the matmuls that XLA compiles for a training step are those that the formula counts."""
    from distill.data.packing import Packer
    from distill.model.parameters import init_params
    from distill.training.state import init_state
    from distill.training.step import make_train_step

    loop = dataclasses.replace(RUN.loop, frozen=frozen)
    run = dataclasses.replace(RUN, model=model, optimizer=optimizers.restricted(RUN.optimizer, loop.trainable))
    state = jax.eval_shape(lambda: init_state(init_params(model, jax.random.key(0)), run.optimizer))
    batch = Packer(RUN.layout).emit()
    lowered = jax.jit(make_train_step(model, run.loss, run.optimizer)).lower(state, batch, jax.random.key(1))
    found = costs.analyse(lowered.compile().as_text())
    assert not found.unknown_loops
    wanted = model_flops.step_flops(run.model, run.layout, run.optimizer.trainable)
    assert found.matmul_flops == pytest.approx(wanted, rel=0.03)
    whole = 3 * model_flops.forward_flops(model, RUN.layout)
    assert wanted == whole if frozen is None else wanted < 0.92 * whole


@pytest.mark.parametrize("family", ["t5", "t5 tied", *gemma_models.FAMILIES])
def test_a_step_with_adapters_computes_no_gradient_of_any_kernel(family):
    """Operations of kernels grow with the lengths and those of attention with their product, which separates the two."""
    if family.startswith("t5gemma"):
        model = gemma_config.config_from_hf(gemma_models.config(family).to_dict())
    else:
        model = dataclasses.replace(TINY, logits_via_embedding=family == "t5 tied")
    optimizer = optimizers.restricted(RUN.optimizer, LoopConfig(1, lora_rank=2).trainable)
    run = dataclasses.replace(RUN, model=model, optimizer=optimizer)
    layout = run.layout
    twice = Layout(layout.windows, 2 * layout.encoder_length, 2 * layout.decoder_length)
    forward = model_flops.forward_flops(model, layout)
    of_kernels = 2 * forward - model_flops.forward_flops(model, twice) / 2
    assert model_flops.step_flops(run.model, run.layout, run.optimizer.trainable) == 3 * forward - of_kernels
