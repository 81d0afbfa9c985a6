"""The command that converts: what it says, and what it refuses."""

import dataclasses

import jax
import numpy as np
import pytest

from distill import exit_codes
from distill.checkpoints import conversion, huggingface
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.t5x import writers
from distill.cli import main
from distill.model.network import T5Config
from distill.model.parameters import param_shapes
from distill.tools import convert

CONFIG = T5Config(384, 8, 2, 4, 12, 2, 3)


def run(arguments):
    return main.main(["convert", *arguments])


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), param_shapes(CONFIG))
    t5x_checkpoints.save(params, CONFIG, tmp_path / "t5x", 9)
    return str(tmp_path / "t5x"), params


def test_there_and_back(source, tmp_path, capsys, caplog):
    path, params = source
    steps = [("hf", "hf", []), ("run", "distill", ["--scan_layers=true"]), ("back", "t5x", ["--layout=t5", "--step=3"])]
    for name, to_format, more in steps:
        to = str(tmp_path / name)
        assert run([f"--from={path}", f"--to={to}", f"--to_format={to_format}", *more]) == 0
        said = capsys.readouterr().out
        assert "vocabulary 384, width 8, 2 + 3 layers" in said and f"written to {to} ({to_format})" in said
        path = to
    assert not caplog.messages
    (tmp_path / "run" / "config.gin").touch()
    assert run([f"--from={tmp_path / 'run'}"]) == 0
    assert [text for text in caplog.messages if text.startswith(f"the run in {tmp_path / 'run'} is not complete")]
    loaded = t5x_checkpoints.load_params(tmp_path / "back" / "checkpoint_3", CONFIG)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))


def test_only_says_what_is_there(source, capsys):
    assert run([f"--from={source[0]}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("T5X checkpoint ") and "step 9" in said and "separate output kernel" in said


def test_fields_that_shapes_do_not_tell(source, tmp_path):
    arguments = [f"--from={source[0]}", f"--to={tmp_path / 'hf'}"]
    more = ['--set=mlp_activations=("silu", "linear")', "--set=dropout_rate=0.25", "--vocabulary=bytes"]
    assert run([*arguments, *more]) == 0
    wanted = dataclasses.replace(CONFIG, mlp_activations=("silu", "linear"), dropout_rate=0.25)
    assert huggingface.read_config(tmp_path / "hf") == wanted
    assert "ByT5Tokenizer" in (tmp_path / "hf" / "tokenizer_config.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from=./nowhere", "--to=x"], "no checkpoint at ./nowhere"),
        (["--set=mlp_activation=relu"], "did you mean 'mlp_activations'?"),
        (["--set=dropout_rate"], "needs FIELD=VALUE"),
        (["--set=dropout_rate=2"], "dropout_rate must be in"),
        (["--set=mlp_activations=('gelo', 'linear')"], "mlp_activations must be one of"),
        (["--to=FULL"], "is not an empty folder"),
        (["--to=NEW", "--to_format=t5x", "--vocabulary=bytes"], "--vocabulary goes with"),
        (["--to=NEW", "--to_format=t5x", "--step=-1"], "step must be"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, source, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    arguments = [a.replace("FULL", str(tmp_path / "full")).replace("NEW", str(tmp_path / "new")) for a in arguments]
    assert run([f"--from={source[0]}", *arguments]) == exit_codes.MISTAKE
    said = capsys.readouterr().err
    assert said.startswith("distill convert: ") and message in said


def test_the_flags_offer_what_can_be_converted():
    """The command's module repeats these names, because importing them would load JAX for every ``--help``."""
    assert convert.FORMATS == conversion.TO_FORMATS
    assert convert.T5X_NETWORKS == writers.LAYOUTS
