import os
import subprocess
import sys
import types

import pytest

from distill import triton_loading

installed = pytest.mark.skipif(
    not triton_loading.load(), reason="Triton is not installed (PyTorch's CPU builds lack it)"
)


@installed
@pytest.mark.parametrize(
    "modules",
    ["import tensorflow; triton_loading.load(); import torch._dynamo", "triton_loading.load(); import tensorflow"],
    ids=["after TensorFlow", "before TensorFlow"],
)
def test_triton_and_tensorflow_in_one_process(modules):
    program = f"from distill import triton_loading; {modules}; print('alive')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("alive\n"), done.stderr[-2000:]


@pytest.fixture
def fake_triton(tmp_path, monkeypatch):
    """A package named triton that keeps the flags with which its libraries would be opened."""
    (tmp_path / "triton.py").write_text("import sys\nFLAGS = sys.getdlopenflags()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    yield
    sys.modules.pop("triton", None)


def test_triton_is_loaded_with_its_own_symbols_first_and_the_flags_are_restored(fake_triton):
    before = sys.getdlopenflags()
    assert triton_loading.load()
    assert sys.modules["triton"].FLAGS & os.RTLD_DEEPBIND and sys.getdlopenflags() == before


def test_a_triton_that_cannot_be_imported_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "triton.py").write_text("raise ImportError('libtriton.so: undefined symbol')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    before = sys.getdlopenflags()
    assert not triton_loading.load() and sys.getdlopenflags() == before


def test_a_loaded_triton_is_left_alone(monkeypatch):
    loaded = types.ModuleType("triton")
    monkeypatch.setitem(sys.modules, "triton", loaded)
    assert triton_loading.load() and sys.modules["triton"] is loaded


def test_without_triton_nothing_is_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not triton_loading.load() and "triton" not in sys.modules
