"""The scripts behind docs/reliability.md detect what they look for: a changed state, a killed process, a counted fault."""

import json
import pathlib
import random
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from benchmarks.reliability import __main__ as everything
from benchmarks.reliability import disk_full, kills, nursery, rows, states, storage, teacher_kills
from distill.checkpoints.manager import Checkpoints
from distill.model.config import T5Config
from distill.training.state import TrainState

CONFIG = T5Config(16, 8, 2, 4, 8, num_encoder_layers=1, num_decoder_layers=1)


def saved(directory, step=3, change=0.0, draws=24, seconds=1.0, label=3.0):
    """A model directory with one checkpoint."""
    weights = np.linspace(0.0, 1.0, 50, dtype=np.float32)
    weights[20] += change
    state = TrainState(step=jax.numpy.int32(step), params={"w": jax.numpy.asarray(weights)}, opt_state={})
    progress = {
        "best": 0.5, "best_step": 0, "stale": 0, "examples": 24, "seconds": seconds, "stopped": None,
        "totals": {"updates": 3.0, "weight_label": label},
    }  # fmt: skip
    saver = Checkpoints(directory, CONFIG)
    saver.save(state, {"seed": 0, "draws": draws, "consumed": {"t": draws}, "data": {"t": "f" * 64}}, progress)
    saver.wait()
    saver.close()
    return directory


@pytest.fixture
def reference(tmp_path):
    return saved(tmp_path / "reference")


def test_equal_states(reference, tmp_path):
    assert states.difference(reference, saved(tmp_path / "same", seconds=7.0)) == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"change": 1e-6}, "'w'"),
        ({"step": 4}, "steps 3 and 4"),
        ({"draws": 32}, "position: draws: 24 and 32"),
        ({"label": 3.0000001}, "progress: totals: weight_label: 3.0 and 3.0000001"),
    ],
)
def test_other_states(reference, tmp_path, changes, expected):
    assert expected in states.difference(reference, saved(tmp_path / "other", **changes))


def test_states_within_a_tolerance(reference, tmp_path):
    near, far = saved(tmp_path / "near", change=1e-6, label=3.0000001), saved(tmp_path / "far", change=1e-3)
    assert states.difference(reference, near, 1e-5) == ""
    assert "differs by up to 0.001" in states.difference(reference, far, 1e-5)
    other = saved(tmp_path / "other", label=3.001)
    assert states.difference(reference, other, 1e-5) == "progress: totals: weight_label: 3.0 and 3.001"
    moved = saved(tmp_path / "moved", draws=32)  # a position is counted, not summed
    assert states.difference(reference, moved, 1.0).startswith("position: draws: 24 and 32")


def test_the_kills_are_spread_over_forms_and_numbers_of_processes():
    for number in (1, 6, 20):
        plan = list(kills._plan(number, tuple(kills.FORMS)))
        assert sum(share for _, _, share in plan) == number
    assert {form for form, _, _ in plan} == set(kills.FORMS)
    assert [same for _, same, _ in plan] == [False, True] * len(kills.FORMS)


class Sleeper(nursery.Child):
    """A process that sleeps; it has no parent that forks."""

    def __init__(self, seconds, log):
        self.process = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
        super().__init__(self.process.pid, log)
        threading.Thread(target=lambda: self.end(self.process.wait()), daemon=True).start()


def test_one_is_killed_and_none_outlives_it(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "_SURVIVORS_S", 0.5)
    children = [Sleeper(60, tmp_path / "log") for _ in range(2)]
    assert kills._kill_one(children, 0.1, random.Random(0))
    assert [child.wait(5) for child in children] == [-9, -9]


def test_a_process_that_has_ended_is_no_kill(tmp_path):
    child = Sleeper(0, tmp_path / "log")
    assert not kills._kill_one([child], 20.0, random.Random(0))
    assert child.wait(1) == 0


def test_a_passing_fault_disturbs_every_seventh_request():
    disturb = storage.passing("503")
    assert [disturb("GET", "b/o") for _ in range(14)].count(503) == 2
    cut = storage.passing("cut")
    assert [cut("POST", "b/o") for _ in range(14)] == [None] * 14
    assert [cut("GET", "b/o") for _ in range(7)][-1] == "cut"
    assert storage.refusing("run/c")("GET", "bucket/run/checkpoints") == 403


def test_files_that_a_run_continues_stay_whole(tmp_path):
    def whole(name, before, after):
        (tmp_path / name).write_text(after)
        return disk_full._whole(tmp_path / name, before.encode())

    assert whole("a.jsonl", '{"step": 5}\n', '{"step": 5}\n{"step": 8}\n')
    assert not whole("a.jsonl", '{"step": 5}\n', '{"step": 8}\n')
    assert not whole("a.jsonl", '{"step": 5}\n', '{"step": 5}\n{"st')
    assert whole("a.jsonl", '{"step": 5}\n{"step": 5, "split": "test"}\n', '{"step": 5}\n{"step": 8}\n')
    assert whole("a.json", "[1]", "[1, 2]") and not whole("a.json", "[1]", "[1, ")
    assert whole("a.gin", "x = 1", "x = 2") and not whole("a.gin", "x = 1", "")
    assert not disk_full._whole(tmp_path / "absent.json", b"[]")


def test_changed_files_are_noticed(tmp_path):
    (tmp_path / "old").write_text("kept")
    before = disk_full._digests(tmp_path)
    (tmp_path / "old").write_text("changed")
    assert before["old"] != disk_full._digests(tmp_path)["old"]


def test_the_teacher_counts(tmp_path):
    import urllib.request

    body = json.dumps({"messages": [{"role": "user", "content": "one"}]}).encode()
    with teacher_kills.serving() as teacher:
        for _ in range(2):
            request = urllib.request.Request(f"{teacher.url}/chat/completions", body)
            with urllib.request.urlopen(request) as reply:
                assert json.load(reply)["choices"][0]["finish_reason"] == "stop"
    assert teacher.answered == {"one": 2}
    assert teacher_kills._stored(tmp_path / "none.sqlite") == set()


def test_the_table():
    good = rows.Row("a promise", "how", tried=1000, seconds=2.4)
    bad = rows.Row("another", "how", tried=1)
    bad.lose("a file is gone")
    assert good.good and not bad.good and not rows.Row("nothing tried", "").good
    assert "| a promise | how | 1,000 | 0 | 0 | 0 | 2 |" in rows.markdown([good, bad])
    assert bad.faults == ["a file is gone"]


def test_every_part_is_a_module_and_the_page_names_its_command():
    page = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "reliability.md").read_text()
    for name in everything.PARTS:
        assert f"benchmarks.reliability.{name}" in page
