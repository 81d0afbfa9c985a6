"""The headers of the shipped sweeps name what they cost."""

import pathlib
import re

import pytest

from benchmarks import sweep_costs
from distill.experiments import sweep
from distill.precompile.chips import parse_topology

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


@pytest.mark.parametrize("path", sorted(sweep_costs.FOLDER.glob("paper_*.yaml")), ids=lambda path: path.stem)
def test_time_and_cost_on_a_slice_follow_from_each_other(path):
    """``# TOPOLOGY: …`` of a form for TPUs, from ``distill precompile``: 92 ms, 0.26 h and 4.92 are one estimate."""
    text = " ".join(line.removeprefix("#").strip() for line in path.read_text("utf-8").splitlines() if line[:1] == "#")
    found = re.search(
        r"TOPOLOGY: (\S+)\. .*?≥ ([\d.]+) ms per step, ([\d.]+) GiB per chip, ≥ ([\d.]+) h for ([\d,]+) steps "
        r"on (\d+) chips "
        r"\(a cost of ([\d.]+) at ([\d.]+) per chip-hour\), by `distill precompile`", text,
    )  # fmt: skip
    assert found, text
    step_ms, gib, hours, chips, cost, price = (float(found[n]) for n in (2, 3, 4, 6, 7, 8))
    steps = int(found[5].replace(",", ""))
    first = found[1].split(",")[0]
    generation, number = parse_topology(first)
    assert number == chips and gib < generation.usable_gib
    assert step_ms / 1e3 * steps / 3600 == pytest.approx(hours, abs=0.006)
    assert step_ms / 1e3 * steps / 3600 * chips * price == pytest.approx(cost, rel=0.01)
    made = sweep.read(path, "out")
    configured = " ".join(file for run in made.runs() for file in run.gin_files)
    for slice_name in found[1].split(","):
        kind, size = parse_topology(slice_name)
        assert f"gin/hardware/tpu_{kind.name}_{size}.gin" in configured, "each named slice has runs"


def test_every_figure_of_the_paper_has_a_form_for_slices_and_one_for_a_laptop():
    texts = {path.stem: path.read_text("utf-8") for path in SHIPPED}
    for figure in range(4, 10):
        (name,) = [name for name, text in texts.items() if re.search(rf"figure {figure}\b", text.splitlines()[0])]
        assert name.startswith("paper_") and name.replace("paper_", "demo_") in texts


def test_operations_are_those_of_the_dry_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sweep_costs.main(["demo"]) == 0
    assert capsys.readouterr().out == "demo: 15 runs, 5.17e+12 operations, 0.17 core-hours\n"
    monkeypatch.setattr(sweep_costs, "FOLDER", tmp_path)
    shipped = (pathlib.Path(__file__).parents[2] / "gin/sweeps/demo.yaml").read_text(encoding="utf-8")
    (tmp_path / "demo.yaml").write_text(shipped.replace("TRAIN_STEPS: 400", "TRAIN_STEPS: 500"))
    assert sweep_costs.main([]) == 1
    assert "header (15, 5170000000000.0)" in capsys.readouterr().out
