"""Every fuzz target under hypothesis: a few inputs, the same in every run; `make fuzz` searches for new ones."""

import os
import pickle
import random
import shutil
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import guard, mutations
from fuzz.__main__ import note, table
from fuzz.targets import TARGETS, Finding, Ready, check

FEW = settings(max_examples=25, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def prepared():
    """Targets by name, each prepared once."""
    return {}


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_gives_a_value_or_its_documented_error(name, prepared, tmp_path):
    target = TARGETS[name]
    ready = prepared.setdefault(name, target.prepare())
    scratch = tmp_path / "scratch"

    @FEW
    @given(seed=st.integers(0, 2**64 - 1), rounds=st.integers(1, 4))
    def run(seed, rounds):
        draw = random.Random(seed)
        data = draw.choice(ready.seeds)
        for _ in range(rounds):
            data = mutations.mutated(data, target.kind, draw, target.words)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        check(ready, data, scratch)

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_good_inputs(name, prepared, tmp_path):
    """A target whose seeds are refused tests the first check of its reader only."""
    ready = prepared.setdefault(name, TARGETS[name].prepare())
    outcomes = []
    for number, seed in enumerate(ready.seeds):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcomes.append(check(ready, seed, folder))
    assert "value" in outcomes


def outside(tmp_path):
    (tmp_path.parent / "outside").write_text("x")


EFFECTS = {
    "open": outside,
    "os.remove": lambda tmp_path: (tmp_path.parent / "victim").unlink(),
    "os.system": lambda tmp_path: os.system("true"),
    "subprocess.Popen": lambda tmp_path: subprocess.run([sys.executable, "-V"], stdout=subprocess.DEVNULL, check=True),
    "pickle.find_class": lambda tmp_path: pickle.loads(pickle.dumps(Finding)),  # noqa: S301
    "exec of text": lambda tmp_path: exec("value = 1"),  # noqa: S102
}


@pytest.mark.parametrize("name", EFFECTS)
def test_the_guard_sees_forbidden_effects(name, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "victim").write_text("x")
    ready = Ready(lambda data, folder: EFFECTS[name](folder), (), (b"",))
    with pytest.raises(Finding, match=name):
        check(ready, b"", scratch)
    allowed = Ready(lambda data, folder: (folder / "own").write_bytes(data), (), (b"",))
    assert check(allowed, b"x", scratch) == "value"
    with guard.watching(scratch) as seen:
        pass
    assert seen == []


def test_other_errors_are_findings_and_each_kind_is_kept_once(tmp_path):
    def run(data, folder):
        if data == b"type":
            raise TypeError("not documented")
        if data == b"decode":
            b"\xff".decode()  # a ValueError, but no message for a user
        raise ValueError("documented" if data == b"value" else "")

    ready = Ready(run, (ValueError,), ())
    assert check(ready, b"value", tmp_path) == "ValueError"
    for data, error in ((b"type", TypeError), (b"decode", UnicodeDecodeError), (b"empty", Finding)):
        with pytest.raises(error) as caught:
            check(ready, data, tmp_path)
        note(tmp_path, data, caught.value)
        note(tmp_path, data + b" again", caught.value)
    kept = [path for path in tmp_path.iterdir() if path.suffix != ".txt"]
    assert sorted(path.read_bytes() for path in kept) == [b"decode", b"empty", b"type"]


def test_the_table_names_findings_and_crashes():
    row = {"target": "rows", "seconds": 9, "runs": 1234, "slowest_s": 0.1, "values": 5, "corpus": 3}
    shown = table([{**row, "findings": [], "exit_code": 0}, {**row, "findings": ["ab12"], "exit_code": 0},
                   {**row, "findings": [], "exit_code": -11}])  # fmt: skip
    assert [line.split()[-1] for line in shown.splitlines()[1:]] == ["none", "ab12", "-11"]


@pytest.mark.parametrize("kind", ["json", "lines", "msgpack", "safetensors", "text", "bytes"])
def test_mutations_change_inputs_and_many_stay_well_formed(kind, prepared):
    name = {"json": "sweeps", "lines": "rows", "msgpack": "t5x_indexes", "safetensors": "safetensors_files"}.get(
        kind, "equations"
    )
    seed = prepared.setdefault(name, TARGETS[name].prepare()).seeds[0]
    found = {mutations.mutated(seed, kind, random.Random(number), ("word",)) for number in range(200)}
    assert len(found) > 100
