"""Runs are grouped by data first: other test rows, or other training rows, are never pooled."""

import pytest

from distill.experiments.report import collect, quantities, settings
from distill.experiments.report.collect import ReportError
from tests.distill.experiments.report import synthetic


def folder(tmp_path, *runs):
    """Writes runs given as (configuration, changes)."""
    for number, (configuration, changes) in enumerate(runs):
        synthetic.write_run(tmp_path / f"r{number}", [True, False, True], configuration=configuration, **changes)
    return collect.collect([tmp_path])


def labels(part):
    return [(cell.label, cell.seeds) for cell in part.cells]


def test_a_sweep_is_grouped_by_its_axes(methods):
    (part,) = settings.parts(collect.collect([methods]))
    assert part.axes == {"method": ("standard", "step-by-step"), "TRAIN_ROWS": ("250", "500", "1000")}
    assert labels(part)[0] == ("standard, TRAIN_ROWS 250", ["0", "1", "2", "3", "4"])
    assert len(part.cells) == 6 and part.crossed and part.rows == 150 and part.method_axis() == "method"


def test_single_runs_are_split_by_what_differs(tmp_path):
    def base(seed, folder, lam):
        bindings = {"train.LoopConfig.seed": seed, "train.train.model_dir": folder, "losses.TwoTaskLoss.lam": lam}
        return {"FORM": "paired", "LAMBDA": lam, "MODEL_DIR": folder, "EXTRA": lam, "RANDOM_SEED": seed, **bindings}

    runs = [(base(seed, f"{seed}-{lam}", lam), {}) for lam in (0.5, 2.0) for seed in (0, 1)]
    (part,) = settings.parts(folder(tmp_path, *runs))
    assert labels(part) == [("LAMBDA 0.5", ["0", "1"]), ("LAMBDA 2.0", ["0", "1"])]


def test_rates_become_one_axis(tmp_path):
    base = {"FORM": "mixed", "RANDOM_SEED": 0}
    runs = [(base | {"LABEL_RATE": a, "RATIONALE_RATE": b}, {}) for a, b in ((1.0, 4.0), (1.0, 1.0), (10.0, 1.0))]
    (part,) = settings.parts(folder(tmp_path, *runs))
    assert part.axes == {settings.RATE: ("1:4", "1:1", "10:1")}


def test_test_rows_with_the_input_of_a_training_row_are_counted(tmp_path):
    runs = folder(tmp_path, *[({"RANDOM_SEED": seed}, {}) for seed in range(3)]).runs
    assert settings.seen_sentence(runs) == [] and settings.seen_range(runs) == "" and not settings.any_seen(runs)

    def noted(*numbers):
        for run, number in zip(runs, numbers):
            run.record["data"]["test"]["seen"] = number
        return settings.seen_sentence(runs)

    assert noted(0, 0, None) == []
    end = " the input of a training row: the scores are not those of unseen rows."
    assert noted(1, 1, 1) == [f"1 of 3 test rows has{end}"]
    assert noted(2, None, 0) == [f"0 to 2 of 3 test rows have{end.replace(':', ', depending on the run:')}"]
    assert settings.seen_range(runs) == "0 to 2" and settings.any_seen(runs) and runs[1].seen is None


def test_other_test_rows_are_refused_or_separate(tmp_path):
    base = {"FORM": "label"}
    other = {"fingerprints": {"test": "other9"}}
    collection = folder(tmp_path, (base | {"RANDOM_SEED": 0}, {}), (base | {"RANDOM_SEED": 1}, other))
    with pytest.raises(ReportError, match=r"2 different sets of test rows.*test0 \(1 run,.*other9.*--data=FINGERPRINT"):
        settings.parts(collection)
    assert [[run.name for run in part.runs] for part in settings.parts(collection, "all")] == [["r0"], ["r1"]]
    (part,) = settings.parts(collection, "oth")
    assert [run.name for run in part.runs] == ["r1"]
    with pytest.raises(
        ReportError, match="no run has test rows with a fingerprint that begins with 'zz'; see other9, test0"
    ):
        settings.parts(collection, "zz")


def test_other_training_rows_are_not_pooled(tmp_path):
    base = {"FORM": "label"}
    other = {"fingerprints": {"train": "new"}}
    runs = [(base | {"RANDOM_SEED": 0}, {}), (base | {"RANDOM_SEED": 1}, {}), (base | {"RANDOM_SEED": 2}, other)]
    (part,) = settings.parts(folder(tmp_path, *runs))
    assert [len(cell.runs) for cell in part.cells] == [2, 1] and settings.TRAIN_DATA in part.axes
    assert [cell.label for cell in part.cells] == ["training rows train100", "training rows new"]


def test_settings_on_rows_that_were_edited_between_them_are_named(tmp_path):
    new = {"fingerprints": {"train": "new"}}
    runs = [({"LAMBDA": lam, "RANDOM_SEED": seed}, new if lam == 3 else {}) for lam in (1, 2, 3) for seed in (0, 1)]
    (part,) = settings.parts(folder(tmp_path / "a", *runs))
    (line,) = settings.other_rows({cell.label: cell.runs for cell in part.cells}, "train")
    assert line.startswith("LAMBDA 3 was trained on other rows than LAMBDA 1 and LAMBDA 2: the files have changed")
    assert settings.other_rows({cell.label: cell.runs for cell in part.cells}, "test") == []
    drawn = [
        ({"LAMBDA": lam, "RANDOM_SEED": seed}, {"fingerprints": {"train": str(seed)}})
        for lam in (1, 2)
        for seed in (0, 1)
    ]
    sizes = [({"SUBSAMPLE": 0.5}, {}), ({"SUBSAMPLE": 1.0}, new)]
    for number, known in enumerate((drawn, sizes)):
        found = {str(run.axes): [run] for run in folder(tmp_path / str(number), *known).runs}
        assert settings.other_rows({run.name: [run] for runs in found.values() for run in runs}, "train") == []


def test_a_sweep_whose_seeds_draw_their_data_compares_within_seeds(tmp_path):
    names = []
    for method in ("standard", "step-by-step"):
        for seed in (0, 1, 2):
            names.append(synthetic.name(method=method, RANDOM_SEED=seed))
            prints = {"test": f"test{seed}", "train": f"train{seed}"}
            synthetic.write_run(
                tmp_path / names[-1], [True, False, seed == 1], configuration={"RANDOM_SEED": seed}, fingerprints=prints
            )
    synthetic.write_sweep(tmp_path, names)
    (part,) = settings.parts(collect.collect([tmp_path]))
    assert not part.crossed and [len(cell.runs) for cell in part.cells] == [3, 3]
    # The same runs without their sweep were not planned together.
    with pytest.raises(ReportError, match="3 different sets of test rows"):
        settings.parts(collect.collect([tmp_path / name for name in names]))


def test_a_run_of_one_update_is_the_student_before_distillation(tmp_path):
    base = {"FORM": "label"}
    (part,) = settings.parts(folder(tmp_path, (base, {}), (base | {"TRAIN_STEPS": 1}, {"training": {"steps": 1}})))
    assert [run.name for run in part.before] == ["r1"] and [run.name for run in part.runs] == ["r0"]


def test_test_rows_are_called_by_name_and_fingerprint(tmp_path):
    of_files = {"DATASET_NAME": "jsonl", "FILES": {"train": "rows/a.jsonl"}}
    collection = folder(
        tmp_path, (of_files, {}), ({"DATASET": "@svamp.dataset()"}, {"fingerprints": {"test": "x"}}), ({}, {})
    )
    words = [part.data_name for part in settings.parts(collection, "all")]
    assert words == ["a.jsonl test0", "svamp x"] and "None" not in "".join(words)
    with pytest.raises(ReportError, match=r"a.jsonl test0 \(2 runs, e.g. r0\); svamp x \(1 run, e.g. r1\)"):
        settings.parts(collection)
    assert settings.named([], "0123456789abcdef") == "0123456789ab"


def test_axes_that_do_not_apply_are_not_named(tmp_path):
    """rates of a mixture and LAMBDA of paired examples, in one sweep."""
    points = [{"form": "mixed", "rates": "4:1"}, {"form": "mixed", "rates": "1:1"}]
    points += [{"form": "paired", "LAMBDA": lam} for lam in (0.5, 2.0)]
    for point in points:
        mixed, lam = point["form"] == "mixed", point.get("LAMBDA")
        labels = float(point["rates"][0]) if mixed else 1.0
        synthetic.write_run(
            tmp_path / synthetic.name(**point), [True, mixed, False], training={"lambda": lam or 2 / labels},
            configuration={
                "FORM": point["form"], "LABEL_RATE": labels, "RATIONALE_RATE": 1.0, "LAMBDA": lam,
                "NORMALIZER": "all_tokens" if mixed else "task_tokens",
            },
        )  # fmt: skip
    synthetic.write_sweep(tmp_path, [synthetic.name(**point) for point in points])
    (part,) = settings.parts(collect.collect([tmp_path]))
    assert {cell.label for cell in part.cells} == {
        "mixed, rates 4:1", "mixed, rates 1:1", "paired, LAMBDA 0.5", "paired, LAMBDA 2.0",
    }  # fmt: skip
    lines = quantities.lines(part, quantities.quantity("effective"))
    assert {line.name: len(line.cells) for line in lines} == {"mixed": 2, "paired": 2}


def test_an_axis_is_optional_where_points_with_and_without_it_are_otherwise_alike():
    added = [{"r": "1:1"}, {"r": "4:1", "LAMBDA": settings.ABSENT}, {"r": "4:1", "LAMBDA": "2"}]
    assert settings.optional(added, "LAMBDA") and not settings.optional(added, "r")
    assert not settings.optional([{"form": "mixed", "r": "1:1"}, {"form": "paired", "LAMBDA": "2"}], "LAMBDA")
