"""The batch that made a run diverge, run again: on which state, and which array is first not finite."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from distill.checkpoints.manager import CheckpointConfig
from distill.training import optimizers, replay, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def growing(step):
    """A learning rate that becomes huge at the update of ``step``."""
    return optimizers.adamw(lambda count: jax.numpy.where(count + 1 >= step, 1e30, 1e-2))


@pytest.fixture
def diverged(tmp_path, arguments):
    """A run of micro-batches with checkpoints 2 and 4, whose update 5 makes the parameters huge, and 6 the loss nan."""
    arguments |= {"optimizer": growing(5), "validation": None, "checkpoints": CheckpointConfig(period=2)}
    arguments["loop"] = dataclasses.replace(arguments["loop"], num_microbatches=2, log_period=100)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 6; .*distill replay"):
        train.train(str(tmp_path / "run"), **arguments)
    return tmp_path / "run", arguments


def test_a_replay_finds_the_first_array_that_is_not_finite(diverged):
    directory, arguments = diverged
    kept = replay.replay(str(directory), **arguments)
    assert (kept.step, kept.state, kept.exact) == (6, "the checkpoint of step 4", False)
    assert kept.first_nonfinite is None  # the parameters of step 4 are good
    assert kept.metrics["loss"] == pytest.approx(
        kept.metrics["loss/label"] + 0.5 * kept.metrics["loss/rationale"], rel=0.2
    )
    norms = kept.arrays["gradients"]
    total = sum(
        (row["rms"] ** 2) * np.prod(shape) for row, shape in zip(norms.values(), shapes(arguments), strict=True)
    )
    assert np.sqrt(total) == pytest.approx(kept.metrics["grad_norm"], rel=1e-4)
    exact = replay.replay(str(directory), 6, exact=True, **arguments)
    assert (exact.state, exact.exact) == ("the checkpoint of step 4 and 1 repeated updates", True)
    names = list(exact.arrays["activations"])
    first = next(name for name in names if exact.arrays["activations"][name]["nonfinite"])
    assert exact.first_nonfinite == f"activation {first}"
    assert first.startswith("encoder/layers_0/")
    assert exact.metrics["loss"] == "nan"
    assert max(row["max_abs"] for row in exact.arrays["parameters"].values()) > 1e29
    # Innermost modules first, the encoder before the decoder.
    assert names.index("encoder/layers_0") < names.index("encoder") < names.index("decoder/layers_0")
    written = json.loads((directory / "replay" / "step_6.report.json").read_text())
    assert written == dataclasses.asdict(exact)
    table = exact.lines()
    assert table[:2] == [f"step 6, run from {exact.state}", f"first non-finite: {exact.first_nonfinite}"]
    assert any(line.startswith("activations ") and line.endswith("non-finite") for line in table)


def shapes(arguments):
    from distill.model.parameters import param_shapes

    return [leaf.shape for leaf in jax.tree.leaves(param_shapes(arguments["model"]))]


def test_a_run_without_a_refused_update(tmp_path, arguments):
    with pytest.raises(FileNotFoundError, match="replay holds no batch: no update of this run was refused"):
        replay.replay(str(tmp_path), **arguments)
