"""The next runs as something to paste: complete settings that `distill sweep --dry_run` accepts."""

import dataclasses
import json
import re
import shlex
import shutil

import pytest
import yaml

from distill.cli import main
from distill.experiments.report import collect, next_runs, next_sweep, proposals, quantities
from distill.experiments.sweep import planning, reading
from distill.training import provenance
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed
from tests_support import write_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

FILE = """
gin_files: [gin/models/t5_1_1_tiny.gin, gin/tasks/jsonl.gin, gin/runs/distill.gin, gin/hardware/cpu.gin]
bindings:
  FILES: {train: FOLDER/train.jsonl, test: FOLDER/test.jsonl}
  FIELDS: {input: question, rationale: why, label: answer}
  VOCABULARY_PATH: bytes
  VOCAB_SIZE: 384
  FORM: mixed
  TRAIN_STEPS: 400
  TASK_FEATURE_LENGTHS: {inputs: 48, targets: 48}
  BATCH_SIZE: 4
  partitioning.MeshConfig.data: 1
axes:
  NORMALIZER: [all_tokens, task_tokens]
  rates: {ratio: ["1:4", "1:1", "4:1", "8:1"]}
  RANDOM_SEED: [0, 1, 2]
directory: FOLDER/out
"""


@pytest.fixture(autouse=True)
def same_rows(monkeypatch):
    """The made-up fingerprints of the runs are those of the rows."""
    monkeypatch.setattr(provenance, "changed_rows", lambda *_: [])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep over rates with its plan, and results as training leaves them."""
    folder = tmp_path_factory.mktemp("next")
    write_rows(folder / "train.jsonl", 40)
    write_rows(folder / "test.jsonl", 10, start=50)
    (folder / "rates.yaml").write_text(FILE.replace("FOLDER", str(folder)))
    found = reading.read(folder / "rates.yaml")
    made = planning.prepare(found)
    table = synthetic.rows(60)
    for place, run in enumerate(made.runs):
        labels, rationales = map(float, run.values["rates"].split(":"))
        weighed = run.values["NORMALIZER"] == "all_tokens"
        lam = 2.4 * rationales / labels if weighed else 1.0
        right = [(n * 7 + place) % 60 < 50 - 6 * abs(lam - 1) for n in range(60)]
        synthetic.write_run(
            run.directory, right, table=table, training={"lambda": lam},
            validation=0.5 + 0.01 * (place % 3) - 0.02 * abs(lam - 1),
            configuration={
                "FORM": "mixed", "NORMALIZER": run.values["NORMALIZER"], "LABEL_RATE": labels, "RATIONALE_RATE": rationales,
                "LAMBDA": 1.0, "RANDOM_SEED": int(run.values["RANDOM_SEED"]),
            },
        )  # fmt: skip
    return folder


def test_the_commands_name_complete_settings_and_a_dry_run_accepts_them(sweep, capsys):
    analysis = analysed(sweep / "out")[1]
    steps = proposals.next_sentences(analysis)
    assert len(steps) == 2
    (rates_text, (_, by_rates)), (_, (_, by_lambda)) = steps
    assert "All other settings stay: NORMALIZER all_tokens, and all that the settings share." in rates_text
    assert by_rates.startswith(f"distill sweep {sweep / 'out'} --more='") and '"NORMALIZER": "all_tokens"' in by_rates
    assert '"NORMALIZER": "task_tokens"' in by_lambda and '"LAMBDA": [' in by_lambda, "no axis of the sweep sets it"
    for command in (by_rates, by_lambda):
        words = shlex.split(command)
        points = json.loads(words[-1].removeprefix("--more="))
        new = sum(
            len(each.get("LAMBDA", each["rates"])) * len(each["RANDOM_SEED"])
            for each in (points if isinstance(points, list) else [points])
        )
        assert main.main([*words[1:], "--dry_run"]) == 0
        said = capsys.readouterr().out
        assert f"{24 + new} runs: 24 finished, which are kept, and {new} to do" in said
        assert "(from 24 finished runs)" in said
    page = (sweep / "out" / "sweep.json").read_text()
    assert '"more"' not in page, "a dry run changes nothing"


def test_more_seeds_of_two_settings_are_one_command(sweep, capsys):
    cells = analysed(sweep / "out")[1].part.cells[:2]
    recipe = next_sweep.more_seeds(cells, 5)
    words = shlex.split(recipe.command)
    points = json.loads(words[-1].removeprefix("--more="))
    assert [point["RANDOM_SEED"] for point in points] == [[3, 4], [3, 4]] and recipe.file == ""
    assert [{**point, "RANDOM_SEED": 0} for point in points] == [{**cell.values, "RANDOM_SEED": 0} for cell in cells]
    assert main.main([*words[1:], "--dry_run"]) == 0
    assert "28 runs: 24 finished, which are kept, and 4 to do" in capsys.readouterr().out


def test_more_seeds_of_some_settings_change_neither_new_levels_nor_the_seeds_to_share(sweep, tmp_path):
    out = shutil.copytree(sweep / "out", tmp_path / "out")
    content = yaml.safe_load((sweep / "rates.yaml").read_text())
    content["more"] = [{"NORMALIZER": "all_tokens", "rates": ["1:4", "8:1"], "RANDOM_SEED": [3, 4, 5]}]
    (tmp_path / "more.yaml").write_text(json.dumps(content))
    for run in planning.prepare(reading.read(tmp_path / "more.yaml", out)).runs:
        if not run.done:
            shutil.copytree(run.directory.with_name(run.name[:-1] + "0"), run.directory)
    cells = {cell.label: cell for cell in analysed(out)[1].part.cells}
    line = quantities.Line("all_tokens", tuple(cells.values())[:4], (9.6, 2.4, 0.6, 0.3))
    assert [len(cell.runs) for cell in line.cells] == [6, 3, 3, 6] and next_sweep.seeds_of(line) == 3
    pair = (cells["all_tokens, rates 1:4"], cells["all_tokens, rates 1:1"])
    assert next_sweep.shared_seeds(pair, 5).added == ((), (3, 4))
    assert next_sweep.shared_seeds(pair, 8).added == ((6, 7), (3, 4, 5, 6, 7))
    alone = [
        dataclasses.replace(cell, runs=tuple(dataclasses.replace(r, sweep=None) for r in cell.runs)) for cell in pair
    ]
    assert next_sweep.seeds_of(dataclasses.replace(line, cells=(*alone, *alone[:1]))) == 6
    of_no_sweep = next_sweep.more_seeds(alone, 8)
    assert [re.findall(r"--gin_file=\S+-(\d_\d)__|in ([\d ]+);", line) for line in of_no_sweep.commands.splitlines()] == [
        [("", "6 7"), ("1_4", "")], [("", "3 4 5 6 7"), ("1_1", "")],
    ]  # fmt: skip


def test_runs_that_exist_are_not_proposed_again_for_runs_of_no_sweep(tmp_path):
    for lam, seeds in ((0.25, (0, 1)), (0.5, (0, 1)), (1.0, (0, 1)), (2.0, (2, 3))):
        for seed in seeds:
            synthetic.write_run(
                tmp_path / f"{lam}-{seed}", [n % 10 < 4 + 3 * lam + seed for n in range(40)], training={"lambda": lam},
                configuration={"FORM": "paired", "LAMBDA": lam, "RANDOM_SEED": seed},
            )  # fmt: skip
    cells = analysed(tmp_path)[1].part.cells
    recipe = next_sweep.more_seeds((cells[0], cells[3]), 4)
    lacking = [("0.25-0", "2 3"), ("2.0-2", "0 1")]
    assert recipe.commands.splitlines() == [
        f"for seed in {seeds}; do distill train --gin_file={tmp_path}/{name}/config.gin --gin.RANDOM_SEED=$seed "
        f"--gin.MODEL_DIR={tmp_path}/{name}-seed-$seed; done"
        for name, seeds in lacking
    ]
    assert proposals.recipe_text(recipe)[0].startswith("The commands that train these runs;")
    # Levels without runs get the seeds of the others; a level with runs gets new ones.
    runs = (next_runs.NextRun(0.25, 2, trained=True), next_runs.NextRun(0.35, 3), next_runs.NextRun(0.7, 3))
    line = quantities.Line("all settings", tuple(cells), (0.25, 0.5, 1.0, 2.0))
    found = next_sweep.with_recipe(next_runs.Proposal("narrow", runs), line, cells[3]).recipe
    (tmp_path / "next.yaml").write_text(found.file)
    trained = {(run.values["LAMBDA"], run.values["RANDOM_SEED"]) for run in reading.read(tmp_path / "next.yaml").runs()}
    assert trained == {("0.25", "4"), ("0.25", "5"), *((lam, seed) for lam in ("0.35", "0.7") for seed in "012")}


def test_runs_without_an_axis_of_seeds_count_as_their_seed(tmp_path, capsys):
    """The command that the report proposes is accepted, keeps the runs, and repeats none under another name."""
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(tmp_path / "test.jsonl", 10, start=50)
    text = (
        FILE.replace("FOLDER", str(tmp_path)).partition("axes:")[0] + f"  RANDOM_SEED: 7\ndirectory: {tmp_path}/out\n"
    )
    (tmp_path / "two.yaml").write_text(f"{text}axes: {{LAMBDA: [0.5, 1]}}\n")
    made = planning.prepare(reading.read(tmp_path / "two.yaml"))
    for run in made.runs:
        lam = run.numbers["LAMBDA"]
        synthetic.write_run(
            run.directory, [n % 10 < 4 + 3 * lam for n in range(40)], training={"lambda": lam},
            configuration={"FORM": "mixed", "LAMBDA": lam, "RANDOM_SEED": 7},
        )  # fmt: skip
    analysis = analysed(tmp_path / "out")[1]
    ((said, (_, command)),) = proposals.next_sentences(analysis)
    assert (
        " The sweep has no axis RANDOM_SEED: its runs have the seed 7, and the command names the seeds of the new "
        in said
    )
    words = shlex.split(command)
    assert json.loads(words[-1].removeprefix("--more="))["RANDOM_SEED"] == [7, 8, 9]
    assert main.main([*words[1:], "--dry_run"]) == 0
    assert "17 runs: 2 finished, which are kept, and 15 to do" in capsys.readouterr().out
    more = next_sweep.more_seeds(analysis.part.cells, 3)
    points = json.loads(shlex.split(more.command)[-1].removeprefix("--more="))
    assert [point["RANDOM_SEED"] for point in points] == [[8, 9], [8, 9]] and more.remark
    (tmp_path / "two.yaml").write_text(f"{text}axes: {{LAMBDA: [0.5, 1]}}\nmore: {json.dumps(points)}\n")
    for run in planning.prepare(reading.read(tmp_path / "two.yaml")).runs[2:]:
        lam, seed = run.numbers["LAMBDA"], int(run.numbers["RANDOM_SEED"])
        synthetic.write_run(
            run.directory, [n % 10 < 5 for n in range(40)], training={"lambda": lam},
            configuration={"FORM": "mixed", "LAMBDA": lam, "RANDOM_SEED": seed},
        )  # fmt: skip
    assert [cell.seeds for cell in analysed(tmp_path / "out")[1].part.cells] == [["7", "8", "9"]] * 2


def test_added_points_stay_in_the_directory_when_the_file_is_run_again(sweep, tmp_path):
    """``--more`` is written into the plan, so that neither command nor report loses the runs."""
    from distill.cli import parser, sweep_files

    made = planning.prepare(reading.read(sweep / "rates.yaml", tmp_path / "other"), write=True)
    point = {"NORMALIZER": "task_tokens", "rates": "1:1", "LAMBDA": [3.0], "RANDOM_SEED": [0, 1, 2]}
    given = [str(sweep / "rates.yaml"), f"--directory={tmp_path / 'other'}"]
    options = parser.parser("sweep").parse_args(["sweep", *given, f"--more={json.dumps(point)}"])
    planning.prepare(sweep_files.read(options, given[0]))
    again = sweep_files.read(parser.parser("sweep").parse_args(["sweep", *given]), given[0])
    assert len(again.runs()) == len(made.runs) + 3
    assert again.runs()[-1].values == {"NORMALIZER": "task_tokens", "rates": "1:1", "LAMBDA": "3.0", "RANDOM_SEED": "2"}


def test_runs_without_a_sweep_get_a_sweep_file_from_the_best_configuration(tmp_path):
    for lam in (0.25, 0.5, 1.0, 2.0):
        for seed in range(2):
            synthetic.write_run(
                tmp_path / f"{lam}-{seed}", [n % 10 < 4 + 3 * lam + seed for n in range(40)], training={"lambda": lam},
                configuration={"FORM": "paired", "LAMBDA": lam, "RANDOM_SEED": seed},
            )  # fmt: skip
    ((_, (what, file)),) = proposals.next_sentences(analysed(tmp_path)[1])
    assert what.startswith("A sweep file with these runs")
    content = yaml.safe_load(file)
    assert content["gin_files"] == [str(tmp_path / "2.0-0" / "config.gin")] and set(content["axes"]) == {
        "LAMBDA",
        "RANDOM_SEED",
    }
    (tmp_path / "next.yaml").write_text(file)
    found = reading.read(tmp_path / "next.yaml")
    assert len(found.runs()) == len(content["axes"]["LAMBDA"]) * 3 and all(
        run.numbers["LAMBDA"] > 2 for run in found.runs()
    )
    assert collect.collect([tmp_path]).runs, "the file is no run"


def test_runs_of_the_sweep_that_are_still_to_do_are_not_proposed_again(sweep, tmp_path, capsys):
    out = shutil.copytree(sweep / "out", tmp_path / "out")

    def planned(*more):
        """The analysis once these points are planned, and the number of planned runs that are to do."""
        content = yaml.safe_load((sweep / "rates.yaml").read_text()) | {"more": list(more)}
        (tmp_path / "more.yaml").write_text(json.dumps(content))
        made = planning.prepare(reading.read(tmp_path / "more.yaml", out))
        return analysed(out)[1], sum(not run.done for run in made.runs)

    def points(command):
        found = json.loads(shlex.split(command)[-1].removeprefix("--more="))
        return found if isinstance(found, list) else [found]

    def count(each):
        return len(each.get("LAMBDA", each["rates"])) * len(each["RANDOM_SEED"])

    (_, (_, by_rates)), (_, (_, by_lambda)) = proposals.next_sentences(planned()[0])
    for command, axis, name in ((by_rates, "rates", "all_tokens"), (by_lambda, "LAMBDA", "task_tokens")):
        before, question = points(command), f"best λ ({name})"
        (all_of_it,) = [step for step in proposals.steps(planned(*before)[0]) if step.question == question]
        assert (all_of_it.runs, all_of_it.recipe) == (0, None)
        assert (
            all_of_it.text == f"no run to add: the {sum(map(count, before))} runs for it are still to do in the sweep."
        )
        one = {**before[0], axis: before[0][axis][0], "RANDOM_SEED": before[0]["RANDOM_SEED"][0]}
        analysis, todo = planned(one)
        (rest,) = [step for step in proposals.steps(analysis) if step.question == question]
        assert todo == 1 and rest.runs == sum(map(count, before)) - 1
        assert " 1 more run for it is still to do in the sweep; it is not among these." in rest.text
        words = shlex.split(rest.recipe.command)
        assert main.main([*words[1:], "--dry_run"]) == 0
        assert f"and {rest.runs + 1} to do" in capsys.readouterr().out, "no run is counted twice"
    part = planned({"NORMALIZER": "all_tokens", "rates": "1:4", "RANDOM_SEED": [3, 7]})[0].part
    added = points(next_sweep.more_seeds(part.cells[:2], 6, part.to_do).command)
    assert [(point["rates"], point["RANDOM_SEED"]) for point in added] == [("1:4", [8]), ("1:1", [3, 7, 8])]


def test_new_seeds_of_a_setting_without_a_level_of_an_added_axis_have_none_either(sweep):
    """Values of LAMBDA that ``more`` added beside the design: the middle of the line is a point of the design."""
    cell = analysed(sweep / "out")[1].part.cells[0]
    axes = [{"rates": "4:1", "LAMBDA": level} for level in ("0.27", next_sweep.ABSENT, "3.3")]
    cells = tuple(dataclasses.replace(cell, values=values) for values in axes)
    line = quantities.Line("rates 4:1", cells, (0.27, 1.0, 3.3))
    runs = [next_runs.NextRun(lam, 1, trained=True) for lam in line.values]
    values = [next_sweep._level(line, run, "LAMBDA", "9") for run in runs]
    points = next_sweep._points({"rates": "4:1"}, "LAMBDA", values, [[3], [3], [3]])
    assert points == [
        {"rates": "4:1", "LAMBDA": [0.27, 3.3], "RANDOM_SEED": [3]}, {"rates": "4:1", "RANDOM_SEED": [3]},
    ]  # fmt: skip
