"""``distill precompile``: wrong flags are one error before anything is compiled."""

import pytest

from distill.precompile import command
from tests.distill.precompile.tiny_run import RUN, TINY

GIVEN = {
    "model": TINY,
    "loss": RUN.loss,
    "optimizer": RUN.optimizer,
    "loop": RUN.loop,
    "data": type("Data", (), {"layout": RUN.layout}),
}


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
    with pytest.raises(ValueError, match=message):
        command.precompile(GIVEN, command.Settings(**{"topology": "v5e:2x2"} | changes))


def test_a_file_of_another_program_in_the_folder_is_kept(tmp_path):
    mine = tmp_path / "train.hlo"
    mine.write_text("notes")
    with pytest.raises(
        ValueError, match=r"the program .*train.hlo exists, and was not written by `distill precompile`"
    ):
        command.precompile(GIVEN, command.Settings("v5e:2x2", hlo_dir=str(tmp_path)))
    assert mine.read_text() == "notes"
    mine.write_text("HloModule jit_step\n")
    with pytest.raises(ValueError, match="unknown TPU generation"):
        command.precompile(GIVEN, command.Settings("v9:2x2", hlo_dir=str(tmp_path)))
