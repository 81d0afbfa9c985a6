"""Bad values of a run's configuration, and which validation is the best."""

import math

import pytest

from distill.training.config import DataConfig, LoopConfig, Progress, ValidationConfig


@pytest.mark.parametrize(
    "lengths", [{}, {"inputs": 8}, {"inputs": 8, "target": 8}, {"inputs": 8, "targets": 8, "more": 1}]
)
def test_windows_name_inputs_and_targets(lengths):
    with pytest.raises(ValueError, match="'inputs' and 'targets'; got"):
        DataConfig("some_task", lengths, 4)


def test_sizes_of_a_batch_are_at_least_1():
    with pytest.raises(ValueError, match=r"DataConfig.batch_size must be ≥ 1; got 0"):
        DataConfig("some_task", {"inputs": 8, "targets": 8}, 0)
    with pytest.raises(
        ValueError, match=r"DataConfig.task_feature_lengths\['targets'\] must be an integer ≥ 1; got -1"
    ):
        DataConfig("some_task", {"inputs": 8, "targets": -1}, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoopConfig(10, seed=-1), r"LoopConfig.seed must be ≥ 0; got -1"),
        (lambda: LoopConfig(10, chunk_tokens=-1), r"LoopConfig.chunk_tokens must be ≥ 0; got -1"),
        (lambda: ValidationConfig("task", max_examples=0), r"ValidationConfig.max_examples must be ≥ 1 or None; got 0"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_layout_is_that_of_the_configuration():
    layout = DataConfig("some_task", {"targets": 8, "inputs": 32}, 4, packed=False).layout
    assert (layout.windows, layout.encoder_length, layout.decoder_length, layout.packed) == (4, 32, 8, False)


@pytest.mark.parametrize("arguments", [{"period": 0}, {"patience": 0}, {"patience": -1}])
def test_validation_periods_are_at_least_1(arguments):
    with pytest.raises(ValueError, match=rf"ValidationConfig\.{next(iter(arguments))} must be ≥ 1"):
        ValidationConfig("some_task", **arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"train_steps": 0}, r"LoopConfig\.train_steps must be ≥ 1; got 0"),
        ({"log_period": -2}, r"LoopConfig\.log_period must be ≥ 1; got -2"),
        ({"num_microbatches": 0}, r"LoopConfig\.num_microbatches must be ≥ 1; got 0"),
        ({"ema_decay": 1.0}, r"LoopConfig\.ema_decay must be .*got 1\.0"),
        ({"ema_decay": 0.0}, r"LoopConfig\.ema_decay must be .*got 0\.0"),
        ({"param_gather": "layers"}, r"LoopConfig\.param_gather .*did you mean 'layer'"),
    ],
)
def test_bad_values_of_the_loop(arguments, message):
    with pytest.raises(ValueError, match=message):
        LoopConfig(**{"train_steps": 10, **arguments})


def test_step_options_are_the_arguments_of_the_step():
    options = LoopConfig(10, seed=5, num_microbatches=2, ema_decay=0.9, chunk_tokens=64).step_options()
    assert options == {
        "num_microbatches": 2,
        "ema_decay": 0.9,
        "chunk_tokens": 64,
        "param_gather": "layer",
        "sequence_parallel": False,
        "skip_nonfinite": False,
    }
    assert LoopConfig(10, on_nonfinite="skip").step_options()["skip_nonfinite"]


def test_of_equal_scores_the_earliest_is_the_best_and_patience_ends_the_run():
    progress = Progress()
    assert progress.best == -math.inf
    assert progress.validated(10, 0.5, 2)
    assert not progress.validated(20, 0.5, 2)
    assert (progress.best_step, progress.stale, progress.stopped) == (10, 1, None)
    assert progress.validated(30, 0.6, 2)
    assert (progress.best, progress.best_step, progress.stale) == (0.6, 30, 0)
    assert not progress.validated(40, 0.1, 2)
    assert not progress.validated(50, 0.1, 2)
    assert (progress.best_step, progress.stale, progress.stopped) == (30, 2, "early")
    assert progress.reason == "patience"
    progress.end("callback Flat")  # at the same validation
    assert progress.reason == "patience"


def test_a_run_that_has_ended_early_goes_on_if_it_may_train_longer():
    def ended(stale):
        return Progress(stale=stale, stopped="early", reason="callback Flat: flat", limits=[40, 2])

    for steps, patience in ((40, 2), (30, 2), (40, 1)):
        progress = ended(1)
        progress.limit(steps, patience)
        assert (progress.stopped, progress.limits) == ("early", [steps, patience])
    for stale, steps, patience in ((1, 50, 2), (2, 40, 3), (2, 40, None)):  # of the first, a callback has ended it
        progress = ended(stale)
        progress.limit(steps, patience)
        assert (progress.stopped, progress.reason) == (None, None)
    with pytest.raises(
        ValueError, match=r"after 2 validations without improvement \(PATIENCE=2\).* raise PATIENCE above 2"
    ):
        ended(2).limit(50, 2)
    progress = Progress(stopped="early")  # of an older version
    progress.limit(50, None)
    assert progress.stopped == "early"


def test_fewer_steps_than_a_run_has_done_are_refused():
    for best_step, steps, validates in ((0, 132, True), (100, 131, True), (0, 131, False)):
        assert Progress(best_step=best_step).check_steps("runs/a", 131, steps, validates=validates) is None
    for best_step, steps, validates in ((0, 131, True), (100, 130, True), (0, 60, False)):
        expected = rf"runs/a has done 131 steps, and TRAIN_STEPS={steps} .*TRAIN_STEPS must be above 131 to continue it"
        with pytest.raises(ValueError, match=expected):
            Progress(best_step=best_step).check_steps("runs/a", 131, steps, validates=validates)


def test_validations_of_equal_scores_are_named():
    def after(*scores, before=None):
        progress = before or Progress()
        for number, score in enumerate(scores, start=1):
            progress.validated(20 * number, score, None)
        return progress.all_scores_equal("accuracy")

    assert after(0.0, 0.0, 0.0, 0.0).startswith(
        "all 4 validations had the same accuracy, 0.0000, and of equal scores the earliest is kept: the student is that of "
        "step 20, not of step 80; "
    )
    assert after() is after(0.0) is after(0.0, 0.5) is after(0.5, 0.0) is after(0.5, 0.0, 0.0) is None
    older = Progress(best=0.0, best_step=10, score=0.0, score_step=10)  # the scores before are not known
    assert after(0.0, 0.0, before=older) is None


def test_of_losses_the_lowest_is_the_best():
    progress = Progress.of(ValidationConfig("task", metric="loss"))
    assert [progress.validated(step, loss, 2) for step, loss in ((1, 4.0), (2, 3.0), (3, 3.0), (4, 3.5))] == [
        True, True, False, False
    ]  # fmt: skip
    assert (progress.best, progress.best_step, progress.stale, progress.stopped) == (3.0, 2, 2, "early")
    for validation in (None, ValidationConfig("task"), ValidationConfig("task", metric="answer_length")):
        assert Progress.of(validation).higher_is_better


def test_a_run_that_kept_the_highest_loss_selects_from_its_checkpoint_on():
    for step, expected in ((30, (2.0, 30)), (35, (-math.inf, 0))):
        progress = Progress(best=4.0, best_step=10, stale=2, stopped="early", score=2.0, score_step=30)
        progress.turn(step)
        assert (progress.best, progress.best_step) == expected
        assert (progress.higher_is_better, progress.stale, progress.stopped) == (False, 0, None)
        assert progress.validated(40, 1.0, 2)


def test_without_patience_a_run_never_ends_early():
    progress = Progress()
    progress.validated(1, 1.0, None)
    for step in range(2, 50):
        assert not progress.validated(step, 0.0, None)
    assert (progress.stale, progress.stopped) == (48, None)


def test_a_score_of_nan_is_never_the_best():
    progress = Progress()
    assert not progress.validated(1, math.nan, None)
    assert (progress.best_step, progress.stale) == (0, 1)
