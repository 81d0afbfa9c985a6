"""A student trained once for the tests of the Python interface; they leave its directory unchanged."""

import pytest

import distill
from tests.distill.api.written import arguments, sums


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A student trained on rows in memory."""
    directory = tmp_path_factory.mktemp("api") / "run"
    return distill.train(sums(24), validation=sums(4, 24), test=sums(6, 28), **arguments(directory))
