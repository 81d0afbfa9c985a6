import errno
import resource
import signal
import sys

import numpy as np
import pytest
from etils import epath

from distill.checkpoints import conversion, leftovers
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.weights import Weights, flatten
from tests.distill.checkpoints.written import CONFIG, random_params


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_what_is_new_is_removed_and_nothing_else(tmp_path, error):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept").write_text("a")
    (tmp_path / "part-0").write_text("b")
    with pytest.raises(type(error)), leftovers.removed_on_failure(tmp_path, "part"):
        (tmp_path / "part-1").mkdir()
        (tmp_path / "part-1" / "x").write_text("c")
        (tmp_path / "other").write_text("d")  # of somebody else
        raise error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "other", "part-0"]
    with pytest.raises(type(error)), leftovers.removed_on_failure(tmp_path / "new"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "x").write_text("c")
        raise error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", ["hf", "distill"])
def test_a_full_disk_during_a_conversion(tmp_path, form, monkeypatch):
    """By a limit on the size of files, in the middle of the arrays; the same conversion is made once there is room."""
    flat = flatten(random_params(CONFIG))
    conversion.write_model_dir(flat.__getitem__, CONFIG, tmp_path / "source")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python's own files would be cut short, too
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises((OSError, ValueError), match="File too large"):
            conversion.convert(tmp_path / "source", tmp_path / "out", form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "out").exists()
    conversion.convert(tmp_path / "source", tmp_path / "out", form)
    with conversion.open_source(tmp_path / "out") as found:
        weights = Weights(found.checkpoint, found.config)
        for name, array in flat.items():
            np.testing.assert_array_equal(weights.read(name), array)


@pytest.mark.parametrize("form", ["native", "orbax"])
def test_a_full_disk_during_a_conversion_to_t5x(tmp_path, form):
    """The same call succeeds once there is room: nothing unfinished is in its way."""
    flat, reads = flatten(random_params(CONFIG)), []

    def full(name):
        reads.append(name)
        if len(reads) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return flat[name]

    with pytest.raises(OSError, match="No space left"):
        t5x_checkpoints.write(full, CONFIG, tmp_path / "out", 7, format=form)
    assert not (tmp_path / "out").exists()
    written = t5x_checkpoints.write(flat.__getitem__, CONFIG, tmp_path / "out", 7, format=form)
    assert epath.Path(written).name == "checkpoint_7" and written.exists()
