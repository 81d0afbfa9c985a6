"""``distill precompile``: wrong flags are one error before anything is compiled."""

import pytest

from distill.precompile import command
from tests.distill.precompile.tiny_run import RUN, TINY


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": "train,evil"}, "--steps takes names of train, decode"),
        ({"steps": ""}, "--steps takes names"),
        ({"price_per_chip_hour": -1.0}, "--price_per_chip_hour must be > 0"),
        ({"topology": "v9:2x2"}, "unknown TPU generation"),
    ],
)
def test_wrong_flags_are_one_error(changes, message):
    given = {
        "model": TINY,
        "loss": RUN.loss,
        "optimizer": RUN.optimizer,
        "loop": RUN.loop,
        "data": type("Data", (), {"layout": RUN.layout}),
    }
    with pytest.raises(ValueError, match=message):
        command.precompile(given, command.Settings(**{"topology": "v5e:2x2"} | changes))
