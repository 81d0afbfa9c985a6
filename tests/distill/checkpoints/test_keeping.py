"""Which checkpoints stay: the last, the best on validation, and every M-th."""

import dataclasses
import json
import os
import types

import pytest
from etils import epath

from distill.checkpoints import keeping
from distill.checkpoints.manager import CheckpointConfig
from distill.training import loop, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def kept(steps, keep, keep_every=None, best=None):
    infos = [types.SimpleNamespace(step=step) for step in steps]
    flags = keeping.policy(keep, keep_every, best).should_preserve(infos, context=None)
    return [step for step, flag in zip(steps, flags) if flag]


def test_last_every_and_best_together():
    best = keeping.BestScores(2, {1: 0.5, 2: 0.9, 3: 0.9, 4: 0.9, 5: 0.1})
    assert kept(range(1, 8), 1, None, best) == [2, 3, 7]  # of equal scores, the earliest
    assert kept(range(1, 8), 2, 4, best) == [2, 3, 4, 6, 7]
    assert kept(range(1, 8), 2) == [6, 7]
    assert kept(range(1, 8), 1, 3) == [3, 6, 7]


def test_of_losses_the_lowest_are_kept():
    best = keeping.BestScores(2, {1: 0.5, 2: 0.9, 3: 0.9, 4: 0.1})
    best.add(5, {"score": 0.7, "score_step": 5, "higher_is_better": False})
    assert kept(range(1, 7), 1, None, best) == [1, 4, 6]


def test_a_step_has_a_score_only_if_it_was_validated_there(tmp_path):
    for step, progress in ((2, {"score": 0.25, "score_step": 2}), (3, {"score": 0.25, "score_step": 2}), (4, "torn")):
        (tmp_path / str(step) / "progress").mkdir(parents=True)
        (tmp_path / str(step) / "progress" / "metadata").write_text(json.dumps(progress))
    best = keeping.BestScores(1)
    best.read(epath.Path(tmp_path), [2, 3, 4])
    assert best.scores == {2: 0.25}


def test_a_run_keeps_its_best_states_over_a_restart(tmp_path, arguments, monkeypatch):
    """Scores by step: 2 → 0.3, 4 → 0.9, 6 → 0.2, 8 → 0.5, 10 → 0.1, 12 → 0.0; the restart is at 8."""
    scores = {2: 0.3, 4: 0.9, 6: 0.2, 8: 0.5, 10: 0.1, 12: 0.0}
    monkeypatch.setattr(loop, "validation_score", lambda validation, step, metrics: scores[step])
    arguments["checkpoints"] = CheckpointConfig(period=1, keep=1, keep_best=2)
    arguments["validation"] = dataclasses.replace(arguments["validation"], period=2, test_split=None)
    for steps, expected in ((8, ["4", "8"]), (12, ["4", "8", "12"])):
        arguments["loop"] = dataclasses.replace(arguments["loop"], train_steps=steps)
        train.train(str(tmp_path / "run"), **arguments)
        (tmp_path / "run" / "result.json").unlink()
        assert sorted(os.listdir(tmp_path / "run" / "checkpoints"), key=int) == expected
        assert os.listdir(tmp_path / "run" / "best") == ["4"]
