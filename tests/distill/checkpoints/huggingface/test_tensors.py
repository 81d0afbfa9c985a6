"""Tensors of a folder as parameters."""

import numpy as np
import safetensors.numpy

from distill.checkpoints.huggingface import tensors
from distill.checkpoints.huggingface.names import Entry
from distill.checkpoints.huggingface.weights_folder import WeightsFolder


def test_a_transposed_tensor(tmp_path):
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    safetensors.numpy.save_file({"theirs": array}, tmp_path / "model.safetensors")
    with WeightsFolder(tmp_path) as weights:
        for transposed, wanted in ((True, array.T), (False, array)):
            tensor = tensors.entry_tensor(weights, "theirs", Entry("theirs", (2, 3), ("ours",), transposed))
            assert tensor.info.shape == wanted.shape and tensor.info.dtype == "float16"
            np.testing.assert_array_equal(tensor.read(...), wanted)
            np.testing.assert_array_equal(tensor.read((slice(1, 2),)), wanted[1:2])


def test_a_tensor_that_is_no_parameter_has_its_shape():
    info = tensors.unread((2, 3), "BF16").info
    assert info.shape == (2, 3) and info.dtype == "bfloat16"
