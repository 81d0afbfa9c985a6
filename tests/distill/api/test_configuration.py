"""Gin mistakes end in one message before any work; good configurations come out as they went in."""

import pytest

from distill.api import configuration
from distill.api.configuration import ConfigurationError
from distill.cli import parser as command_line
from distill.training import train

FILES = ["gin/models/t5_1_1_tiny.gin", "gin/tasks/svamp.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
GIVEN = ["DATA_DIR = 'd'", "MODEL_DIR = 'm'", "VOCABULARY_PATH = 'bytes'"]


def error(bindings=(), files=FILES, given=GIVEN, **kwargs):
    with pytest.raises(ConfigurationError) as caught:
        configuration.parse(files, [*given, *bindings], **kwargs)
    return str(caught.value)


def test_the_place_of_the_bindings_is_named():
    def told(*bindings):
        return error(bindings, place="the arguments")

    assert told("ALHPA = 0.9").startswith("nothing uses ALHPA (set in the arguments)")
    assert told("BATCH_SIZE = 'x'").startswith("BATCH_SIZE (set in the arguments), as train.DataConfig.batch_size: ")
    assert told("train.LoopConfig.train_steps = '7'").startswith(
        "train.LoopConfig.train_steps (set in the arguments): "
    )
    assert told("LAMBDA = 50%").startswith("the arguments: 'LAMBDA = 50%' has no gin value")


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (
            ["LAMBDA=@nowhere"],
            "'--gin.LAMBDA=@nowhere': no gin file imports 'nowhere', as a value with @ needs; a text needs quotes",
        ),
        (
            ["BATCH_SIZE=8", "DATASET=@cqa.dataset()"],
            "'--gin.DATASET=@cqa.dataset()': no gin file imports 'cqa', as a value with @ needs; a text needs quotes",
        ),
        (
            ["BATCH_SIZE=8", "LAMBDA=@schedules.no()", "Z_LOSS=0"],
            "'--gin.LAMBDA=@schedules.no()': distill.training.schedules has no 'no'",
        ),
        (
            ["OPTIMIZER=@optimizers.adamq()"],
            "'--gin.OPTIMIZER=@optimizers.adamq()': distill.training.optimizers has no 'adamq'; did you mean 'adamw'?",
        ),
        (
            ["LAMBDA=[1,", "BATCH_SIZE=8]"],
            "'--gin.LAMBDA=[1,' has no gin value: the bracket '[' is not closed; a shell needs quotes around the value: "
            "--gin.LAMBDA='…'",
        ),
    ],
)
def test_a_flag_that_gin_refuses_is_named_as_it_was_given(bindings, message):
    assert error(bindings) == f"the command line: {message}"


def test_a_refused_value_names_the_macros_that_set_it():
    """``linear_decay`` knows its arguments only; the user knows macros."""
    configuration.parse(
        ["gin/recipes/quickstart.gin"], ["MODEL_DIR = 'm'", "VOCABULARY_PATH = 'bytes'", "TRAIN_STEPS = 20"]
    )
    with pytest.raises(ConfigurationError) as caught:
        configuration.arguments_of(train.train)
    assert str(caught.value).endswith(
        "warmup_steps must be in [0, steps=20); got 50; --gin.TRAIN_STEPS sets steps, --gin.WARMUP_STEPS sets warmup_steps"
    )


@pytest.mark.parametrize(
    "binding",
    ["ALPHA = (", "ALPHA = [1,", 'ALPHA = """', "ALPHA = {", "ALPHA = " + "(" * 3000, "ALPHA" * 5000],
    ids=lambda text: text[:12],
)
def test_a_binding_that_gin_cannot_read_is_one_short_message(binding):
    """Found by fuzzing: TokenError and RecursionError of gin's parser reached the user."""
    message = error([binding], files=["gin/models/t5_1_1_tiny.gin"], given=[])
    assert message and len(message) < 1000


def test_a_syntax_error_says_where(tmp_path):
    (tmp_path / "broken.gin").write_text("# x\nA = [1,\n")
    assert str(tmp_path / "broken.gin") in error(files=[*FILES, str(tmp_path / "broken.gin")])


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "binary.gin").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8" in error(files=[*FILES, str(tmp_path / "binary.gin")])


@pytest.mark.parametrize("statement", ["import os", "from os import path", "import subprocess as distillery"])
def test_files_may_not_import_what_is_not_trusted(tmp_path, statement):
    (tmp_path / "evil.gin").write_text(f"from __gin__ import dynamic_registration\n{statement}\n")
    assert "which is not trusted; allow it with --gin_module=" in error(files=[*FILES, str(tmp_path / "evil.gin")])


def test_a_module_can_be_trusted(tmp_path):
    (tmp_path / "mine.gin").write_text("from __gin__ import dynamic_registration\nimport math\nLAMBDA = @math.sqrt()\n")
    configuration.parse([*FILES, str(tmp_path / "mine.gin")], GIVEN, allowed=["math"])


def test_an_include_that_goes_in_circles(tmp_path):
    (tmp_path / "a.gin").write_text(f"include '{tmp_path}/b.gin'\n")
    (tmp_path / "b.gin").write_text(f"include '{tmp_path}/a.gin'\n")
    assert "includes itself" in error(files=[str(tmp_path / "a.gin")])


def test_the_resolved_configuration_is_the_configuration(tmp_path):
    configuration.parse(
        FILES,
        [
            *GIVEN,
            "LAMBDA = 0.25",
            "LEARNING_RATE = @optimizers.linear_decay()",
            "optimizers.linear_decay.peak = 1e-3",
            "optimizers.linear_decay.steps = 10",
        ],
    )
    text = configuration.resolved()
    before = configuration.arguments_of(train.train)
    (tmp_path / "config.gin").write_text(text)
    configuration.parse([str(tmp_path / "config.gin")], [])
    after = configuration.arguments_of(train.train)
    assert configuration.resolved() == text
    assert before["loss"] == after["loss"]
    assert before["model"] == after["model"]
    assert after["loss"].lam == 0.25


def test_later_files_and_bindings_override_earlier_ones(tmp_path):
    (tmp_path / "mine.gin").write_text("BATCH_SIZE = 16\nTRAIN_STEPS = 5\n")
    configuration.parse([*FILES, str(tmp_path / "mine.gin")], [*GIVEN, "TRAIN_STEPS = 7"])
    given = configuration.arguments_of(train.train)
    assert (given["data"].batch_size, given["loop"].train_steps) == (16, 7)


@pytest.mark.parametrize(
    ("argument", "binding"),
    [
        ("--gin.BATCH_SIZE=4", "BATCH_SIZE = 4"),
        ("--gin.MODEL_DIR=runs/a", "MODEL_DIR = runs/a"),
        ('--gin.X={"a": 1, "b": "c=d"}', 'X = {"a": 1, "b": "c=d"}'),
        ("--gin.train.LoopConfig.seed=3", "train.LoopConfig.seed = 3"),
    ],
)
def test_command_line_bindings(argument, binding):
    assert command_line.split_arguments([argument]) == [f"--gin_bindings={binding}"]
    assert command_line.split_arguments(["train", "--gin_file=a"]) == ["train", "--gin_file=a"]


def test_bare_words_are_strings():
    configuration.parse(FILES, ["DATA_DIR = gs://bucket/data", "MODEL_DIR = runs/a-b", "VOCABULARY_PATH = bytes"])
    assert configuration.macro("DATA_DIR") == "gs://bucket/data"
    assert configuration.macro("MODEL_DIR") == "runs/a-b"
    assert configuration.macro("NO_SUCH") is None


def test_a_function_that_the_configuration_does_not_mention():
    def nobody():
        return None

    with pytest.raises(
        ConfigurationError, match=r"the configuration does not mention .*nobody; the run file is missing"
    ):
        configuration.configured(nobody)


def test_no_files_at_all():
    assert error(files=[], given=[]) == "no gin file was given; start with --gin_file=gin/recipes/quickstart.gin"


def test_another_configuration_of_the_process_does_not_change_names(tmp_path):
    """gin keeps the first name of a class: a configuration that says config.T5Config renamed network.T5Config in others."""
    (tmp_path / "other.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom distill.model import config\nconfig.T5Config.embed_dim = 32\n"
    )
    configuration.parse(FILES, GIVEN)
    text = configuration.resolved()
    configuration.exchange_names()
    configuration.parse([str(tmp_path / "other.gin"), *FILES], GIVEN)
    assert "\nconfig.T5Config.embed_dim = " in configuration.resolved()
    configuration.parse(FILES, GIVEN)
    assert configuration.resolved() == text


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("callbacks = @own.made()", "callbacks: expected Sequence[Callback]; got 3 (int); give a list"),
        ("callbacks = @own.Mine()", "callbacks: expected Sequence[Callback]; got an instance of Mine; give a list"),
        ("callbacks = [@own.made()]", "callbacks: expected Sequence[Callback]; got [3] (list)"),
        (
            "callbacks = [@own.Mine]",
            "callbacks[0] must be an instance; got the class Mine; write Mine(), in gin @…Mine()",
        ),
        ("optimizer = @own.made()", "optimizer: expected Optimizer; got 3 (int)"),
        ("validation = @own.made()", "validation: expected ValidationConfig or None; got 3 (int)"),
    ],
)
def test_what_functions_of_the_user_return_has_the_type_of_its_argument(tmp_path, monkeypatch, binding, message):
    (tmp_path / "own.py").write_text(
        "import distill\n\n\nclass Mine(distill.Callback):\n    pass\n\n\ndef made():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own.gin").write_text(
        "from __gin__ import dynamic_registration\nimport own\nfrom distill.training import train\n"
        f"train.train.{binding}\n"
    )
    configuration.parse([*FILES, str(tmp_path / "own.gin")], GIVEN, allowed=["own"])
    with pytest.raises(ConfigurationError) as caught:
        configuration.training_arguments()
    assert str(caught.value) == f"train.train.{message}"


def test_a_class_in_place_of_a_value_is_named(tmp_path):
    (tmp_path / "own.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom distill.training import train\n"
        "train.train.loop = @train.LoopConfig\n"
    )
    assert error(files=[*FILES, str(tmp_path / "own.gin")]).endswith(": expected LoopConfig; got the class LoopConfig")
