"""A small T5 1.1 as ``transformers`` writes it, to be copied and damaged; and its library without its messages."""

import pathlib
import shutil

import pytest
import transformers

from tests.distill import hf_models


@pytest.fixture(autouse=True)
def _quiet():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    return hf_models.save(hf_models.build("t5_v1_1"), "t5_v1_1", tmp_path_factory.mktemp("small"))


@pytest.fixture
def folder(small_folder, tmp_path):
    """A copy of a small T5 1.1 to damage."""
    return pathlib.Path(shutil.copytree(small_folder, tmp_path / "copy"))
