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


def test_only_what_a_run_writes_is_discarded(run):
    outcomes.note_failure(run, "one")
    (run.directory / "checkpoints" / "20").mkdir(parents=True)
    for name in ("config.gin", "sweep.log", ".config.json.distill-partial", ".lock.owner", "checkpoints/20/data"):
        (run.directory / name).touch()
    outcomes.check_discarded(run)
    (run.directory / "thesis.tex").write_text("words")
    (run.directory / ".notes").mkdir()
    with pytest.raises(SweepError, match=r"a holds a failed .*\.notes and 1 more, which no run writes .*: move"):
        outcomes.check_discarded(run)
    outcomes.discard(run)
    assert {path.name for path in run.directory.iterdir()} == {".notes", "thesis.tex"}
    (run.directory / "thesis.tex").unlink()
    (run.directory / ".notes").rmdir()
    outcomes.discard(run)
    outcomes.discard(run)
    outcomes.check_discarded(run)
    assert not run.directory.exists()


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
