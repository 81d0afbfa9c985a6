"""Small T5X checkpoints of both formats, to be copied and damaged."""

import pytest

from distill.checkpoints import t5x as t5x_checkpoints
from tests.distill.checkpoints.t5x.written import PLAIN
from tests.distill.checkpoints.written import random_params


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    t5x_checkpoints.save(random_params(PLAIN), PLAIN, folder, 0)
    return folder / "checkpoint_0"


@pytest.fixture(scope="module")
def orbax(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    t5x_checkpoints.save(random_params(PLAIN), PLAIN, folder, 0, format="orbax")
    return folder / "checkpoint_0"
