"""The headers of the shipped sweeps name what they cost."""

import pathlib

import pytest

from benchmarks import sweep_costs
from distill.experiments import sweep

SHIPPED = sorted(sweep_costs.FOLDER.glob("*"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_header_has_command_and_cost(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    assert path.suffix == ".yaml" and text.startswith("# ")
    assert f"gin/sweeps/{path.name}" in text, "the command"
    runs, operations = sweep_costs.header(path)
    made = sweep.read(path, tmp_path)
    expected = len(made.runs()) if made.search is None else made.search.trials * len(made.seeds())
    assert runs == expected and operations > 1e12


def test_operations_are_those_of_the_dry_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sweep_costs.main(["demo"]) == 0
    assert capsys.readouterr().out == "demo: 15 runs, 5.17e+12 operations, 0.17 core-hours\n"
    monkeypatch.setattr(sweep_costs, "FOLDER", tmp_path)
    shipped = (pathlib.Path(__file__).parents[2] / "gin/sweeps/demo.yaml").read_text(encoding="utf-8")
    (tmp_path / "demo.yaml").write_text(shipped.replace("TRAIN_STEPS: 400", "TRAIN_STEPS: 500"))
    assert sweep_costs.main([]) == 1
    assert "header (15, 5170000000000.0)" in capsys.readouterr().out
