"""What a run writes beside its checkpoints, and that a restart leaves each step in it once."""

import json
import re
import time

import pytest
from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.data.fullness import advised
from distill.inference.evaluate import Evaluation
from distill.terminal import Terminal
from distill.training import curves, event_files, reporting


def points(directory, tag):
    """What TensorBoard's own reader shows as a plain scalar."""
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    assert not [tag for tag in events.Tags()["tensors"] if not tag.startswith("_hparams_/")]
    return [(event.step, event.value) for event in events.Scalars(tag)]


def attempt(directory, steps, begin, evaluate=()):
    values = {"loss": 2.0, "loss/label": 0.5, "effective_lambda": 1.0, "examples": 3.0, "epoch": 0.1}
    with reporting.Reporter(directory, 40, Terminal(quiet=True), step=begin, test_split="test") as reporter:
        for step in steps:
            reporter.train(step, dict(values, loss=1.0 / step))
            if step in evaluate:
                reporter.evaluation("validation", step, Evaluation({"accuracy": step / 100}, []))


def test_scalars_are_plain_and_stale_points_are_dropped(tmp_path):
    directory = epath.Path(tmp_path)
    attempt(directory, (10, 20, 30), begin=0, evaluate=(10, 30))
    time.sleep(1.1)  # event files are named by the second
    attempt(directory, (30, 40), begin=20, evaluate=(30,))
    assert points(tmp_path / "logs", "train/loss") == [(step, pytest.approx(1.0 / step)) for step in (10, 20, 30, 40)]
    assert points(tmp_path / "logs", "validation/accuracy") == [(10, pytest.approx(0.1)), (30, pytest.approx(0.3))]
    assert event_files.read(tmp_path / "logs")["train/loss"] == points(tmp_path / "logs", "train/loss")
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 30]


def test_a_new_beginning_drops_everything(tmp_path):
    attempt(epath.Path(tmp_path), (5, 10), begin=0, evaluate=(5,))
    time.sleep(1.1)
    attempt(epath.Path(tmp_path), (3,), begin=0)
    assert [step for step, _ in points(tmp_path / "logs", "train/loss")] == [3]
    assert (tmp_path / "evaluations.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "torn", ['{"split": "validation", "st', '{"split": "validation"}\n', "7\n", "\x00\x00\n", "[" * 100_000]
)
def test_a_torn_line_is_dropped_and_swallows_no_other(tmp_path, torn, caplog):
    good = '{"split": "validation", "step": 10, "accuracy": 0.5}\n'
    test = '{"split": "test", "step": 10, "accuracy": 0.4}\n'
    late = '{"split": "validation", "step": 30, "accuracy": 0.9}\n'
    (tmp_path / "evaluations.jsonl").write_text(good + test + late + torn)
    attempt(epath.Path(tmp_path), (30,), begin=20, evaluate=(30,))
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert [(json.loads(line)["split"], json.loads(line)["step"]) for line in lines] == [
        ("validation", 10),
        ("validation", 30),
    ]
    assert "evaluations.jsonl:4 is no evaluation and was removed" in caplog.text
    assert not list(tmp_path.glob(".*.distill-partial"))


def test_curves_are_drawn_from_the_event_files(tmp_path):
    attempt(epath.Path(tmp_path), (10, 20, 30), begin=0, evaluate=(10, 20, 30))
    path = curves.draw(tmp_path, "validation", "accuracy")
    assert path.name == "curves.png"
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    nothing = curves._figure({}, None, None)
    assert nothing.startswith(b"\x89PNG")
    assert len(data) > len(nothing)


@pytest.mark.parametrize(
    ("p99", "window", "padding", "packed", "shorter"),
    [
        (102, 512, 0.83, False, 128),
        (102, 512, 0.40, False, None),  # most of it is used
        (102, 128, 0.60, False, None),  # hardly shorter
        (30, 256, 0.80, True, 64),  # holds 52 tokens, of several sequences
        (200, 256, 0.80, True, None),
        (5, 64, 0.90, False, 16),
    ],
)
def test_the_window_that_is_advised(p99, window, padding, packed, shorter):
    assert advised(p99, window, padding, packed) == shorter


def hparams_table(folder, columns):
    """What TensorBoard's HParams tab shows of a folder: run → settings, and the values of the metrics."""
    from tensorboard import context as request
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    runs = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    provider = data_provider.MultiplexerDataProvider(runs, str(folder))
    asked = request.RequestContext()
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    experiment = context.experiment_from_metadata(asked, "e", True, context.hparams_metadata(asked, "e"), [])
    wanted = api_pb2.ListSessionGroupsRequest(
        slice_size=10,
        col_params=[api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos],
        allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING, api_pb2.STATUS_SUCCESS],
    )
    found = list_session_groups.Handler(asked, context, "e", wanted).run()
    shown = {info.name.tag: info.display_name for info in experiment.metric_infos}
    assert list(shown.values()) == columns
    return {
        group.sessions[0].name: (
            {name: value.number_value or value.string_value for name, value in group.hparams.items()},
            {shown[value.name.tag]: value.value for value in group.sessions[0].metric_values},
        )
        for group in found.session_groups
    }


def test_the_settings_and_the_selected_scores_are_in_tensorboards_table(tmp_path):
    settings = {"LAMBDA": 0.5, "FORM": "paired", "FILES": {"train": "a.jsonl"}}
    for name, best in (("a", 0.25), ("b", 0.75)):
        given = {"test_split": "test", "settings": settings, "selection": ("validation", "accuracy")}
        with reporting.Reporter(epath.Path(tmp_path / name), 40, Terminal(quiet=True), **given) as reporter:
            reporter.evaluation("validation", 10, Evaluation({"accuracy": best}, []))
            reporter.evaluation("validation", 20, Evaluation({"accuracy": 0.125}, []))
            reporter.evaluation("test", 10, Evaluation({"accuracy": best / 2}, []))
            reporter.outcome(10, best, {})
    table = hparams_table(tmp_path, ["validation accuracy, best step", "test accuracy, best step"])
    assert {name: metrics for name, (_, metrics) in table.items()} == {
        "a/logs": {"validation accuracy, best step": 0.25, "test accuracy, best step": 0.125},
        "b/logs": {"validation accuracy, best step": 0.75, "test accuracy, best step": 0.375},
    }
    assert table["a/logs"][0] == {"LAMBDA": 0.5, "FORM": "paired", "FILES": '{"train": "a.jsonl"}'}
    assert points(tmp_path / "a/logs", "validation/accuracy") == [(10, 0.25), (20, 0.125)]


def test_details_are_printed_where_they_fit(tmp_path, capsys):
    values = {
        "loss": 2.0,
        "loss/label": 0.5,
        "loss/rationale": 1.5,
        "effective_lambda": 1.0,
        "examples": 3.0,
        "epoch": 0.1,
    }
    with reporting.Reporter(epath.Path(tmp_path), 40, Terminal()) as reporter:
        for step, more in ((10, {}), (20, {"mfu": 0.41}), (30, {"mfu": 0.41, "data_wait_share": 0.3})):
            reporter.train(step, {**values, "examples": step * 1.0, "steps_per_second": 2.0, **more})
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert re.search(r"epoch 0\.10  2\.0 examples/s  \d+ s left  MFU 41%$", lines[1])
    assert lines[2].endswith("left  MFU 41%") or lines[2].endswith("waits for data 30%")
    assert max(map(len, lines)) <= reporting.COLUMNS


def test_the_first_line_after_a_restart_names_the_step_that_its_means_begin_after(tmp_path, capsys):
    values = {"loss": 2.0, "examples": 3.0, "epoch": 0.1}
    for begin, steps in ((0, (10,)), (16, (20, 30))):
        with reporting.Reporter(epath.Path(tmp_path), 40, Terminal(), step=begin) as reporter:
            for step in steps:
                reporter.train(step, dict(values))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step")]
    assert ["means since step 16" in line for line in lines] == [False, True, False]


def test_lines_in_a_pipe_say_how_much_longer_the_run_trains(tmp_path, capsys):
    values = {"loss": 2.0, "effective_lambda": 1.0, "epoch": 0.1, "examples": 1.0}
    selection, period = ("validation", "accuracy"), 400
    given = {"test_split": "test", "selection": selection, "evaluation_period": period}
    with reporting.Reporter(epath.Path(tmp_path), 800, Terminal(), **given) as reporter:
        reporter.train(4, dict(values))  # too few updates for a speed without compilation
        reporter.train(400, {**values, "steps_per_second": 0.5})
        reporter.evaluation("validation", 400, Evaluation({"accuracy": 1.0}, []), 50.0)
        reporter.train(800, {**values, "steps_per_second": 0.5})
        reporter.evaluation("validation", 800, Evaluation({"accuracy": 0.5}, []), 50.0)
        reporter.evaluation("test", 400, Evaluation({"accuracy": 0.75}, []))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("epoch 0.10")
    assert re.search(r"examples/s  \d+ s left$", lines[1])
    assert lines[2].startswith("step 400  validation: ")
    assert "left" not in lines[3]  # nothing is left
    assert lines[5] == "step 400  test (parameters of the best step): accuracy 0.7500"


def test_a_stage_that_takes_long_is_heard_of(capsys, monkeypatch):
    monkeypatch.setattr("distill.terminal.STILL_S", 0.1)
    with Terminal().stage("compiling the training step"):
        time.sleep(0.35)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "compiling the training step"
    assert lines[1].startswith("still compiling the training step, ")
    with Terminal(quiet=True).stage("reading"):
        Terminal(quiet=True).say("nothing")
        Terminal(quiet=True).warn("3 targets are too long")
    assert capsys.readouterr().err == "WARNING 3 targets are too long\n"
