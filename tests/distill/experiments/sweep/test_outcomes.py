"""Failures and pruned runs as files."""

import pytest

from distill import locking
from distill.experiments.sweep import SweepError, outcomes
from distill.experiments.sweep.runs import Run


@pytest.fixture
def run(tmp_path):
    return Run("a", {}, (), (), tmp_path / "a")


def test_failures_are_counted_and_limit_the_retries(run):
    assert outcomes.is_open(run) and outcomes.state(run, False) == "waiting"
    outcomes.note_failure(run, "one")
    assert not outcomes.is_open(run) and outcomes.is_open(run, retries=1)
    assert outcomes.note_failure(run, "two") == outcomes.Failure("two", 2)
    assert not outcomes.is_open(run, retries=1) and outcomes.state(run, False) == "failed"
    outcomes.forget_failure(run)
    assert outcomes.is_open(run) and outcomes.failure(run) is None
    outcomes.note_failure(run, "three")
    (run.directory / "result.json").write_text("{}")
    assert outcomes.failure(run) is None and outcomes.state(run, False) == "done"


def test_a_pruned_run_is_not_open(run):
    outcomes.note_pruned(run, 20, 0.25)
    assert outcomes.pruned(run) == {"step": 20, "value": 0.25}
    assert not outcomes.is_open(run, retries=9) and outcomes.state(run, False) == "pruned"
    assert outcomes.state(run, True) == "running"


def test_a_run_that_training_locks_is_running_without_a_lease(run, tmp_path):
    assert not outcomes.is_running(tmp_path, [run])
    with locking.held(locking.of_directory(run.directory), "a"):
        assert outcomes.is_running(tmp_path, [run])
    assert not outcomes.is_running(tmp_path, [run])


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"error": 1, "attempts": 1}', "[" * 100_000])
def test_a_broken_record_is_named(run, content):
    run.directory.mkdir()
    (run.directory / "failure.json").write_text(content)
    with pytest.raises(SweepError, match=r"failure\.json .*delete it to repeat the run"):
        outcomes.failure(run)
