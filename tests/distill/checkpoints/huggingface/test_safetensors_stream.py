"""Safetensors files written in pieces: read by the library itself, and absent where they are unfinished."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.checkpoints.huggingface import safetensors_stream


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.dictionaries(
        st.text('abc.é"\\', min_size=1, max_size=5),
        st.lists(st.integers(0, 9), max_size=3).map(tuple),
        min_size=1,
        max_size=5,
    ),
    block=st.integers(1, 200),
)
def test_safetensors_files_written_in_pieces(shapes, block, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    path = tmp_path / "file.safetensors"
    before, safetensors_stream.BLOCK_BYTES = safetensors_stream.BLOCK_BYTES, block
    try:
        with safetensors_stream.SafetensorsWriter(path, shapes) as file:
            for name in sorted(tensors, reverse=True):
                file.write(name, np.asfortranarray(tensors[name]) if tensors[name].ndim == 2 else tensors[name])
    finally:
        safetensors_stream.BLOCK_BYTES = before
    read = safetensors.numpy.load_file(path)
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


def test_unfinished_safetensors_files_leave_nothing(tmp_path):
    path = tmp_path / "file.safetensors"

    def write(shapes, array):
        with safetensors_stream.SafetensorsWriter(path, shapes) as file:
            file.write("a", array)

    with pytest.raises(ValueError, match="1 tensors were not written, such as b"):
        write({"a": (2,), "b": (3,)}, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="must be of shape"):
        write({"a": (2,)}, np.zeros(3, np.float32))
    assert not list(tmp_path.iterdir())
