import types

import pytest
from etils import epath

from distill.training.lanes import Lane


def lane(newest=None, **values):
    """A lane of windows of 8 + 4 positions, whose newest checkpoint is of step ``newest``."""
    parts = dict.fromkeys(("stream", "evaluators", "saver", "reporter", "lock", "origin"))
    parts["stream"] = types.SimpleNamespace(layout=types.SimpleNamespace(windows=3, encoder_length=8, decoder_length=4))
    parts["saver"] = types.SimpleNamespace(latest_step=lambda: newest)
    made = object.__new__(Lane)  # its parts are stand-ins, which the checked constructor refuses
    for field in Lane.__dataclass_fields__.values():
        if not callable(field.default_factory):
            setattr(made, field.name, field.default)
    for name, value in {"directory": epath.Path("run"), "seed": 7, **parts, **values}.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "values, active, complete",
    [
        ({}, True, True),
        ({"stopped": "early"}, False, True),
        ({"stopped": "SIGTERM"}, False, False),
        ({"failure": FloatingPointError("nan")}, False, False),
    ],
    ids=["trains", "patience", "signal", "failure"],
)
def test_when_updates_count_and_a_run_has_ended(values, active, complete):
    made = lane(**values)
    assert (made.active, made.complete) == (active, complete)


def test_an_error_names_the_newest_checkpoint():
    assert lane().kept == "nothing of this step was saved, no checkpoint was saved before"
    assert lane(newest=40).kept == "nothing of this step was saved, the newest checkpoint is of step 40"


def test_positions_and_step_of_a_lane():
    made = lane(step=5)
    assert made.positions == 3 * (8 + 4)
    assert (made.at.directory, made.at.seed, made.at.step) == (epath.Path("run"), 7, 5)
    assert made.best_metrics == {}
