"""The picture of a run's curves, drawn from real event files."""

import matplotlib.image
import numpy as np

from distill.training import curves, event_files


def run(folder, values):
    writer = event_files.ScalarWriter(folder / "logs", 0)
    for step, row in enumerate(values, start=1):
        writer.write(step, row)
    writer.close()
    return folder


def coloured(path, colour):
    """Number of pixels of exactly this colour."""
    rgb = np.asarray([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return int((np.abs(matplotlib.image.imread(path)[..., :3] - rgb) < 1e-3).all(-1).sum())


def test_every_curve_has_its_colour(tmp_path):
    row = {"train/loss/label": 1.0, "train/loss/rationale": 2.0, "train/loss": 3.0, "validation/accuracy": 50.0}
    found = curves.draw(run(tmp_path, [row] * 3), "validation", "accuracy")
    assert found == tmp_path / "curves.png"
    assert all(coloured(found, colour) > 100 for colour in curves.COLOURS[:3])
    assert matplotlib.image.imread(found).shape[:2] == (432, 1440)


def test_a_run_without_rationales_has_no_second_curve(tmp_path):
    found = curves.draw(run(tmp_path, [{"train/loss/label": 1.0}] * 2), None, None)
    assert coloured(found, curves.COLOURS[0]) > 100
    assert coloured(found, curves.COLOURS[1]) == 0


def test_the_interval_is_a_band(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "band").mkdir()
    score = {"test/accuracy": 5.0}
    ends = {"test/accuracy_low": 1.0, "test/accuracy_high": 9.0}
    plain = curves.draw(run(tmp_path / "plain", [score] * 3), "test", "accuracy").read_bytes()
    band = curves.draw(run(tmp_path / "band", [{**score, **ends}] * 3), "test", "accuracy").read_bytes()
    assert band != plain


def test_a_run_that_logged_nothing_gives_empty_axes(tmp_path):
    (tmp_path / "logs").mkdir()
    assert curves.draw(tmp_path, "validation", "accuracy").exists()


def test_rounding_of_the_effective_lambda_is_no_curve(tmp_path):
    pictures = []
    for name, values in (("same", [1.0] * 3), ("noise", [1.0, 0.9999998, 1.0000002])):
        (tmp_path / name).mkdir()
        rows = [{"train/effective_lambda": value} for value in values]
        pictures.append(curves.draw(run(tmp_path / name, rows), None, None).read_bytes())
    assert pictures[0] == pictures[1]
