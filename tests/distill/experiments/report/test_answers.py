"""The share of data that is enough and the smallest model that beats the teacher, where the truth is known."""

import math
import shutil

import numpy as np
import pytest

from distill.experiments.report import answers, statistics
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed
from tests_support import read_lines, write_lines


def test_the_share_of_data_where_the_gain_is_known(methods_analysis):
    """A gain of 0.8 in log odds is worth a factor of 2 ** (0.8 / 0.9) of the data, since a doubling is worth 0.9."""
    (share,) = methods_analysis[1].shares
    assert (share.line, share.standard, share.rows, share.smallest) == ("step-by-step", "standard", 1000, 0.25)
    truth = 2 ** (-0.8 / 0.9)
    assert share.share.low < truth < share.share.high
    assert share.share.low < share.share.value < share.share.high < 1


def test_crossings_below_between_and_beyond():
    x = np.array([0.25, 0.5, 1.0])
    y = np.array([[60.0, 70.0, 80.0]])
    found = [answers.crossing(x, y, np.array([goal]))[0] for goal in (50.0, 75.0, 81.0)]
    assert found[0] == 0 and found[1] == pytest.approx(math.sqrt(0.5)) and found[2] == math.inf


def test_the_teachers_answers(methods_analysis):
    table = synthetic.rows(150)
    right = np.mean([row["teacher"] == row["target"] for row in table])
    assert methods_analysis[1].teacher.accuracy.value == pytest.approx(right)
    assert answers.teacher_is_right({"target": "( 8 - 3 )", "teacher": "5"}) == 1
    assert answers.teacher_is_right({"target": "yes", "teacher": "no"}) == 0
    assert math.isnan(answers.teacher_is_right({"target": "yes", "teacher": None}))


def test_settings_with_different_teachers_have_no_common_one(methods, tmp_path):
    folder = shutil.copytree(methods, tmp_path / "runs")
    for run in folder.glob("*step-by-step*/predictions/test.jsonl"):
        write_lines(run, [row | {"teacher": "another answer"} for row in read_lines(run)])
    _, found = analysed(folder)
    assert found.teacher is None and found.smallest == ()


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Students of four sizes; the largest two beat a teacher that is right in three of four rows."""
    directory = tmp_path_factory.mktemp("sizes")
    random = np.random.default_rng(0)
    for number, (size, skill) in enumerate(((1e6, 0.4), (1e7, 0.65), (1e8, 0.85), (1e9, 0.97))):
        for seed in range(4):
            synthetic.write_run(
                directory / f"{number}-{seed}", random.random(200) < skill, training={"parameters": int(size)},
                configuration={"FORM": "paired", "EMBED_DIM": number, "RANDOM_SEED": seed},
            )  # fmt: skip
    return directory


def test_the_smallest_model_that_beats_the_teacher(sizes):
    _, found = analysed(sizes)
    (smallest,) = found.smallest
    assert 0.7 < found.teacher.accuracy.value < 0.8
    assert smallest.parameters.value == 1e8 and smallest.parameters.low >= 1e7 and smallest.parameters.high <= 1e9
    assert smallest.certain == 1e8 and smallest.sizes == (1e6, 1e7, 1e8, 1e9)


def test_the_headline_is_the_least_data_for_the_highest_goal():
    def share(line, goal, value):
        return answers.EqualShare(line, "standard", goal, 500, statistics.Interval(value, value, value), 0.25)

    shares = [share("standard", 93.0, math.inf), share("a", 84.0, 0.4), share("a", 93.0, 0.5), share("b", 93.0, 0.9)]
    assert answers.headline(shares) is shares[2]
    assert answers.headline(shares[:1]) is shares[0]


def test_a_line_is_told_against_the_standard_line_nearest_to_it(tmp_path):
    names = []
    for width in (32, 64):
        for form, right in (("label", 0.5), ("paired", 0.8)):
            for rows in (100, 400):
                for seed in (0, 1, 2):
                    correct = np.random.default_rng(seed + rows).random(60) < right * (0.5 + rows / 800) * width / 64
                    names.append(synthetic.name(width=width, FORM=form, TRAIN_ROWS=rows, RANDOM_SEED=seed))
                    synthetic.write_run(
                        tmp_path / names[-1],
                        correct,
                        configuration={"FORM": form, "TRAIN_ROWS": rows, "RANDOM_SEED": seed, "width": width},
                        train_rows=rows,
                    )
    synthetic.write_sweep(tmp_path, names)
    shares = analysed(tmp_path)[1].shares
    assert len(shares) == 6
    told = {(each.line, each.standard) for each in shares if each.told}
    assert len(told) == 2
    for line, standard in told:
        assert "paired" in line and "label" in standard and line.replace("paired", "label") == standard
