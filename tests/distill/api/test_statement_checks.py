"""Misspelt, missing and required macros, and unknown arguments, are one message each; gin parses nothing."""

import pytest

from distill.api import statement_checks
from distill.api.gin_files import ConfigurationError

FILES = ["gin/models/t5_1_1_tiny.gin", "gin/tasks/svamp.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
GIVEN = ["DATA_DIR = 'd'", "MODEL_DIR = 'm'", "VOCABULARY_PATH = 'bytes'"]


def error(bindings=(), files=FILES, given=GIVEN):
    with pytest.raises(ConfigurationError) as caught:
        statement_checks.check_statements(files, [*given, *bindings])
    return str(caught.value)


def test_a_misspelt_macro_names_its_neighbour():
    assert error(["ALHPA = 0.9"]) == "nothing uses ALHPA (set in the command line); did you mean 'ALPHA'?"


def test_a_misspelt_required_macro_is_one_line():
    """``MODEL_DIR`` is not set because ``MODEL_DRI`` is: one mistake, one line."""
    message = error(["MODEL_DRI = 'm'"], given=["DATA_DIR = 'd'", "VOCABULARY_PATH = 'bytes'"])
    assert message.startswith("nothing uses MODEL_DRI (set in the command line); did you mean 'MODEL_DIR'")
    assert "\n" not in message


def test_a_macro_like_no_other_says_where_macros_are_listed():
    assert error(["QQQ = 1"]) == "nothing uses QQQ (set in the command line); `distill config` prints the macros"


def test_a_missing_macro_names_who_wants_it():
    message = error(given=["DATA_DIR = 'd'", "VOCABULARY_PATH = 'bytes'"])
    assert message.startswith("MODEL_DIR is used by gin/runs/train.gin:")
    assert message.endswith("and nothing sets it; give it with --gin.MODEL_DIR=…")


def test_a_missing_vocabulary_is_that_of_the_initial_checkpoint_if_it_has_one(tmp_path):
    given = ["DATA_DIR = 'd'", "MODEL_DIR = 'm'", f"INITIAL_CHECKPOINT_PATH = {str(tmp_path)!r}"]
    files = [f"gin/{name}.gin" for name in ("models/t5gemma2_tiny", "tasks/svamp", "runs/distill", "hardware/cpu")]
    assert error(files=files, given=given).endswith("give it with --gin.VOCABULARY_PATH=…")
    (tmp_path / "tokenizer.model").touch()
    wanted = f"the initial checkpoint has a vocabulary, give it with --gin.VOCABULARY_PATH={tmp_path}/tokenizer.model"
    assert error(files=files, given=given).endswith(wanted)


def test_macros_that_are_wanted_and_not_set():
    names = ("DATA_DIR", "MODEL_DIR", "TRAIN_STEPS", "NOBODYS")
    assert statement_checks.unset(names, FILES, []) == ["DATA_DIR", "MODEL_DIR"]
    assert statement_checks.unset(names, FILES, ["MODEL_DIR = runs/a"]) == ["DATA_DIR"]
    assert statement_checks.unset(names, FILES, ["TRAIN_STEPS = %gin.REQUIRED"])[-1] == "TRAIN_STEPS"
    with pytest.raises(ConfigurationError, match="no gin file"):
        statement_checks.unset(names, ["gin/none.gin"], [])


def test_a_required_macro_left_open(tmp_path):
    (tmp_path / "mine.gin").write_text("# x\nTRAIN_STEPS = %gin.REQUIRED\n")
    message = error(files=[*FILES, str(tmp_path / "mine.gin")])
    assert message == f"TRAIN_STEPS is required by {tmp_path}/mine.gin:2; give it with --gin.TRAIN_STEPS=…"
    statement_checks.check_statements([*FILES, str(tmp_path / "mine.gin")], [*GIVEN, "TRAIN_STEPS = 3"])


def test_several_mistakes_are_told_at_once():
    message = error(["ALHPA = 0.9", "BATCH_SIEZ = 1"])
    assert "ALHPA" in message
    assert "did you mean 'BATCH_SIZE'" in message


def test_an_unknown_file_names_its_neighbour():
    message = error(files=["gin/models/t5_1_1_smal.gin"])
    assert message.startswith("no gin file 'gin/models/t5_1_1_smal.gin'; did you mean 'gin/models/t5_1_1_small.gin'")


def test_an_unknown_argument():
    assert "no_such" in error(["train.LoopConfig.no_such = 1"])
