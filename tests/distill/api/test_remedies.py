"""Errors of the Python interface name arguments and no flags; their types stay."""

import logging

import pytest

from distill.api import remedies
from distill.exit_codes import Stopped
from distill.inference import evaluate


@pytest.mark.parametrize(
    ("text", "train", "gin"),
    [
        ("--gin.MAX_DECODE_LEN=12 fits all", "max_answer_length=12 fits all", "bindings={'MAX_DECODE_LEN': 12} fits all"),
        ("give it with --gin.EMA_DECAY=…", "give it with settings={'EMA_DECAY': …}",
         "give it with bindings={'EMA_DECAY': …}"),
        ("BATCH_SIZE (set in the arguments): no", "batch_size (set in the arguments): no",
         "BATCH_SIZE (set in the arguments): no"),
        ("use --gin_file=gin/hardware/cpu.gin here", "use hardware='cpu' here", "use 'gin/hardware/cpu.gin' here"),
        ("imports os; allow it with --gin_module=os", "imports os; allow it with distill.from_gin(…, allowed=['os'])",
         "imports os; allow it with distill.from_gin(…, allowed=['os'])"),
        ("bad fields; --gin.FIELDS sets fields, --gin.X sets x", "bad fields, settings={'X': …} sets x",
         "bad fields; bindings={'FIELDS': …} sets fields, bindings={'X': …} sets x"),
        ("DataConfig.batch_size must be ≥ 1; got 0; --gin.BATCH_SIZE sets batch_size", "batch_size must be ≥ 1; got 0",
         "bindings['BATCH_SIZE'] must be ≥ 1; got 0"),
        ("TRAIN_STEPS (set in the arguments), as train.LoopConfig.train_steps: train_steps must be ≥ 1; got -5",
         "steps must be ≥ 1; got -5", "bindings['TRAIN_STEPS'] must be ≥ 1; got -5"),
        ("EMA_DECAY (set in the arguments), as train.LoopConfig.ema_decay: expected float; got 'x' (str)",
         "settings['EMA_DECAY']: expected float; got 'x' (str)", "bindings['EMA_DECAY']: expected float; got 'x' (str)"),
        ("FILES was {'train': 'a'}", "rows was {'train': 'a'}", "FILES was {'train': 'a'}"),
        ("'TRAIN_STEPS' and runs/MESH/a", "'TRAIN_STEPS' and runs/MESH/a", "'TRAIN_STEPS' and runs/MESH/a"),
    ],
)  # fmt: skip
def test_flags_become_arguments(text, train, gin):
    assert remedies.in_python(text, remedies.ARGUMENTS, "settings") == train
    assert remedies.in_python(text, {}, "bindings") == gin


def test_every_argument_is_one_of_train():
    import inspect

    from distill.api.training import train

    assert set(remedies.ARGUMENTS.values()) <= set(inspect.signature(train).parameters)


def test_types_and_other_exceptions_stay(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"^give steps$"),
        remedies.speaking_python(remedies.ARGUMENTS, "settings"),
    ):
        raise FileNotFoundError("give TRAIN_STEPS")
    with pytest.raises(Stopped, match="TRAIN_STEPS"), remedies.speaking_python(remedies.ARGUMENTS, "settings"):
        raise Stopped("TRAIN_STEPS")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as raised, remedies.speaking_python(remedies.ARGUMENTS, "settings"):
        evaluate._check_writable(evaluate.epath.Path(tmp_path / "file" / "folder"))
    assert raised.value.errno is not None


def test_logged_messages_of_this_package_name_arguments_until_the_block_ends(caplog):
    def log(logger, module):
        record = logger.makeRecord("x", logging.WARNING, module.__file__, 1, "raise %s", ("TRAIN_STEPS",), None)
        logger.handle(record)
        return caplog.messages[-1]

    loggers = logging.getLogger(), logging.getLogger("absl")
    for logger in loggers:
        with remedies.speaking_python(remedies.ARGUMENTS, "settings"):
            assert log(logger, evaluate) == "raise steps"
            assert log(logger, pytest) == "raise TRAIN_STEPS"
        assert log(logger, evaluate) == "raise TRAIN_STEPS"
