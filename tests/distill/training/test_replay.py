"""The batch that made a run diverge, run again: on which state, and which array is first not finite."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill.checkpoints.manager import CheckpointConfig
from distill.training import optimizers, replay, train, uncertainty
from distill.training.losses import TwoTaskLoss

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


KERNEL = "decoder/layers_0/mlp/wo/kernel"


def overflowing(step):
    """AdamW whose update of ``step`` makes one kernel so large that products with it overflow."""
    inner = optimizers.adamw(1e-2)

    def update(updates, state, params=None):
        count, rest = state
        updates, rest = inner.transform.update(updates, rest, params)

        def changed(path, leaf):
            here = jax.tree_util.keystr(path, simple=True, separator="/") == KERNEL
            return jnp.where(count == step - 1, 3e38, leaf) if here else leaf

        return jax.tree_util.tree_map_with_path(changed, updates), (count + 1, rest)

    def init(params):
        return jnp.int32(0), inner.transform.init(params)

    return optimizers.Optimizer(optax.GradientTransformation(init, update), inner.learning_rate)


@pytest.fixture
def diverged(tmp_path, arguments):
    """A run of micro-batches with checkpoints 2 and 4, whose update 5 makes a kernel huge, and 6 the loss nan."""
    arguments |= {"optimizer": overflowing(5), "validation": None, "checkpoints": CheckpointConfig(period=2)}
    arguments["loop"] = dataclasses.replace(arguments["loop"], num_microbatches=2, log_period=100)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 6; .*distill replay"):
        train.train(str(tmp_path / "run"), **arguments)
    return tmp_path / "run", arguments


def test_a_replay_finds_the_first_array_that_is_not_finite(diverged):
    directory, arguments = diverged
    kept = replay.replay(str(directory), **arguments)
    assert (kept.step, kept.state, kept.exact) == (6, "the checkpoint of step 4", False)
    assert kept.first_nonfinite is None  # the parameters of step 4 are good
    assert kept.metrics["loss/label"] > 0.0
    total = sum(
        (row["rms"] ** 2) * np.prod(shape)
        for row, shape in zip(kept.arrays["gradients"].values(), shapes(arguments), strict=True)
    )
    assert np.sqrt(total) == pytest.approx(kept.metrics["grad_norm"], rel=1e-4)
    exact = replay.replay(str(directory), 6, exact=True, **arguments)
    assert (exact.state, exact.exact) == ("the checkpoint of step 4 and 1 repeated updates", True)
    names = list(exact.arrays["activations"])
    # Innermost modules first, the encoder before the decoder.
    assert names.index("encoder/layers_0") < names.index("encoder") < names.index("decoder/layers_0")
    first = next(name for name in names if exact.arrays["activations"][name]["nonfinite"])
    assert exact.first_nonfinite == f"activation {first}"
    assert names.index(first) >= names.index("decoder/layers_0/mlp/wo")  # nothing before the kernel is affected
    assert exact.metrics["loss"] == "nan"
    assert exact.arrays["parameters"][KERNEL] == pytest.approx(
        {"max_abs": 3e38, "rms": 3e38, "nonfinite": 0.0}, rel=1e-5
    )
    written = json.loads((directory / "replay" / "step_6.report.json").read_text())
    assert written == dataclasses.asdict(exact)
    table = exact.lines()
    assert table[:2] == [f"step 6, run from {exact.state}", f"first non-finite: {exact.first_nonfinite}"]
    assert any(line.startswith("activations ") and line.endswith("non-finite") for line in table)


def test_learned_weights_of_the_tasks_are_those_of_the_run(tmp_path, arguments):
    optimizer = uncertainty.learned(overflowing(5), 0.5)
    arguments |= {"optimizer": optimizer, "loss": TwoTaskLoss(), "validation": None}
    arguments |= {"checkpoints": CheckpointConfig(period=5)}
    with pytest.raises(FloatingPointError, match="the loss is nan at step 6"):
        train.train(str(tmp_path), **arguments)
    found = replay.replay(str(tmp_path), exact=True, **arguments)
    written = json.loads((tmp_path / "replay" / "step_6.json").read_text())
    assert written["metrics"]["effective_lambda"] != pytest.approx(1.0, abs=1e-3)
    assert found.metrics["effective_lambda"] == pytest.approx(written["metrics"]["effective_lambda"], rel=1e-5)
    assert list(found.arrays) == ["parameters", "activations", "gradients", "updates"]


def shapes(arguments):
    from distill.model.parameters import param_shapes

    return [leaf.shape for leaf in jax.tree.leaves(param_shapes(arguments["model"]))]


def test_a_run_without_a_refused_update(tmp_path, arguments):
    with pytest.raises(FileNotFoundError, match="replay holds no batch: no update of this run was refused"):
        replay.replay(str(tmp_path), **arguments)
