"""The test that reports the absence of T5X."""

import pytest

from tests.t5x.conftest import t5x_is_present

if not t5x_is_present():
    pytest.skip(
        'T5X IS NOT INSTALLED, so the T5X plug-in is not tested: pip install ".[t5x]" && '
        "pip install --no-deps -r requirements-t5x.txt",
        allow_module_level=True,
    )


def test_t5x_has_the_hooks_that_the_plugin_overrides():
    from t5x import models, trainer

    assert hasattr(trainer.Trainer, "_partitioned_train_step")
    assert hasattr(trainer.Trainer, "_partitioned_eval_step")
    assert hasattr(models.EncoderDecoderModel, "_compute_logits")
    assert callable(trainer.train_with_lr)
    assert callable(trainer.eval_step)
