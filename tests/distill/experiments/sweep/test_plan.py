"""The plan of a directory: read without the sweep file, refused where it cannot be read, and the older format."""

import json
import os

import pytest

from distill.experiments import sweep
from distill.experiments.sweep import SweepError, leases, outcomes, plan, planning, reading
from tests_support import begin_run

TEXT = "axes: {rates: {ratio: ['2:1', '1:4']}, RANDOM_SEED: [0, 1]}\nbindings: {A: 1}\n"


def read(tmp_path, text=TEXT):
    (tmp_path / "s.yaml").write_text(text)
    return reading.read(tmp_path / "s.yaml", tmp_path / "out")


def test_a_directory_lists_its_runs_and_their_states(tmp_path):
    made = planning.prepare(read(tmp_path))
    done, failed, pruned, running = made.runs
    for run in made.runs:
        run.directory.mkdir()
    (done.directory / "result.json").write_text("{}")
    outcomes.note_failure(done, "before it was done")
    outcomes.note_failure(failed, "the loss is nan")
    outcomes.note_pruned(pruned, 10, 0.5)
    lease = leases.claim(tmp_path / "out", running.name)
    entries = sweep.read_directory(tmp_path / "out")
    assert [entry.state for entry in entries] == ["done", "failed", "pruned", "running"]
    assert [entry.error for entry in entries] == [None, "the loss is nan", None, None]
    assert entries[0].values == {"rates": "2:1", "RANDOM_SEED": "0"}
    assert entries[0].numbers == {"rates": 2.0, "RANDOM_SEED": 0.0}
    assert entries[0].directory == tmp_path / "out" / entries[0].name
    lease.release()
    os.rename(tmp_path / "out", tmp_path / "moved")
    entries = sweep.read_directory(tmp_path / "moved")
    assert [entry.state for entry in entries] == ["done", "failed", "pruned", "waiting"]
    assert entries[3].directory.parent == tmp_path / "moved"
    found = plan.read_plan(tmp_path / "moved")
    assert found.axes["rates"]["log"] and found.source is not None
    assert found.source["axes"]["rates"] == {"ratio": ["2:1", "1:4"]} and found.source["bindings"] == {"A": 1}


def test_a_directory_of_the_older_format_is_converted(tmp_path):
    given = read(tmp_path)
    runs = given.runs()
    old = {
        "runs": {run.name: [list(run.gin_files), list(run.bindings)] for run in runs},
        "failed": {runs[1].name: {"error": "the loss is nan"}},
    }
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep.json").write_text(json.dumps(old))
    with pytest.raises(
        SweepError, match=r"older version.*convert it with: distill sweep FILE --directory=.* --report_only"
    ):
        sweep.read_directory(tmp_path / "out")
    assert sweep.failures(given) == {runs[1].name: "the loss is nan"}
    planning.prepare(given)
    states = [entry.state for entry in sweep.read_directory(tmp_path / "out")]
    assert states == ["waiting", "failed", "waiting", "waiting"]
    begin_run(runs[0])
    with pytest.raises(SweepError, match="holds runs of another configuration"):
        planning.prepare(read(tmp_path, TEXT.replace("A: 1", "A: 2")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is no plan of a sweep"),
        ('{"runs": {"a": {}}, "format": 2}', "run 'a' has another form"),
        ('{"runs": {}, "format": 3}', "has format 3; this version reads format 2"),
        ('{"runs": {}, "failed": {"a": 1}}', "'failed' has another form"),
        ('{"runs": {}, "format": 2, "inputs": {"gin": {"a": 1}}}', "'inputs' has another form"),
    ],
)
def test_a_plan_that_cannot_be_read_names_the_file(tmp_path, content, message):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(SweepError) as error:
        sweep.read_directory(tmp_path)
    assert str(tmp_path / "sweep.json") in str(error.value) and message in str(error.value)


def test_a_folder_without_a_plan_is_no_sweep(tmp_path):
    with pytest.raises(SweepError, match=r"holds no sweep\.json; is it the directory of a sweep\?"):
        sweep.read_directory(tmp_path)


def test_runs_that_an_edited_file_leaves_out_are_known(tmp_path):
    made = planning.prepare(read(tmp_path, "axes: {A: [1, 2, 3]}"))
    for run in made.runs[1:]:
        run.directory.mkdir()
        (run.directory / "result.json").write_text("{}")
    edited = read(tmp_path, "axes: {A: [1, 2, 4]}")
    assert [run.name for run in plan.left_out(tmp_path / "out", edited.runs())] == ["A-3"]
    assert plan.left_out(tmp_path / "elsewhere", edited.runs()) == []
