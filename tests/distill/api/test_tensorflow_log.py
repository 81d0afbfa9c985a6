"""TensorFlow is silent in the Python interface as in the command line, and is imported only when it is needed."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
{before}
import distill
from distill.api import tensorflow_log
assert "tensorflow" not in sys.modules
distill.Student, distill.train
assert "tensorflow" not in sys.modules and "seqio" not in sys.modules
{then}
assert "tensorflow" in sys.modules
"""
USES = "distill.from_gin('gin/recipes/quickstart.gin', {'MODEL_DIR': 'x', 'VOCABULARY_PATH': 'bytes'})\n"
USES += "import tensorflow as tf; list(tf.data.Dataset.range(2).as_numpy_iterator())"


def environment(**changes):
    names = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    return {name: value for name, value in os.environ.items() if name not in names} | changes


@pytest.mark.parametrize("before", ["", "import jax"])
def test_nothing_of_tensorflow_reaches_stderr(before):
    program = PROGRAM.format(before=before, then=USES)
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_users_level_is_kept_and_stderr_is_restored(capfd, monkeypatch):
    from distill.api import tensorflow_log

    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert not tensorflow_log.set_level()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.delitem(sys.modules, "seqio", raising=False)
    monkeypatch.setattr(tensorflow_log.importlib, "import_module", lambda name: os.write(2, b"noise"))
    tensorflow_log.import_quietly()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_signal_right_after_stderr_is_silenced_leaves_it_restored(capfd, monkeypatch):
    from distill.api import tensorflow_log

    replace = os.dup2

    def interrupted(source, target):
        replace(source, target)
        monkeypatch.setattr(os, "dup2", replace)
        raise KeyboardInterrupt

    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.delitem(sys.modules, "seqio", raising=False)
    monkeypatch.setattr(os, "dup2", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tensorflow_log.import_quietly()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
