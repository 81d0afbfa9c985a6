"""Gin files are found by their names, and a wrong name suggests the nearest file."""

import os

import pytest

from distill.api import gin_files


def test_a_shipped_file_is_found_with_and_without_its_folder():
    found = gin_files.find("gin/models/demo.gin")
    assert os.path.isfile(found) and gin_files.find("models/demo.gin") == found


def test_own_folders_come_before_the_shipped_ones(tmp_path, monkeypatch):
    (tmp_path / "more" / "gin" / "models").mkdir(parents=True)
    (tmp_path / "more" / "gin" / "models" / "demo.gin").write_text("# mine\n")
    monkeypatch.chdir(tmp_path)
    paths = gin_files.search_paths([str(tmp_path / "more")])
    assert gin_files.find("gin/models/demo.gin", paths) == str(tmp_path / "more" / "gin" / "models" / "demo.gin")
    monkeypatch.chdir(tmp_path / "more")
    assert gin_files.find("gin/models/demo.gin") == "gin/models/demo.gin"


def test_a_file_beside_is_proposed_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.gin").write_text("")
    with pytest.raises(gin_files.ConfigurationError, match=r"no gin file 'smal.gin'; did you mean 'small.gin'"):
        gin_files.find("smal.gin")


def test_what_is_not_there():
    with pytest.raises(
        gin_files.ConfigurationError, match=r"no gin file 'gin/models/dmeo.gin'; did you mean .*demo.gin'"
    ):
        gin_files.find("gin/models/dmeo.gin")
    with pytest.raises(gin_files.ConfigurationError, match="is a folder, not a gin file"):
        gin_files.find(os.curdir)


def test_suggestions_are_the_nearest_first():
    assert gin_files.close("ALHPA", {"ALPHA", "LAMBDA"}) == ["ALPHA"]
    with pytest.raises(gin_files.ConfigurationError, match=r"did you mean '\S+/gpu_8.gin' or '\S+/gpu_1.gin'\?"):
        gin_files.find("gin/hardware/gpu_16.gin")


def test_the_shipped_models_are_those_that_can_be_trained():
    names = gin_files.shipped("models")
    assert {"demo", "t5_1_1_small", "t5gemma2_270m", "umt5_base"} <= set(names)
    assert not {"t5_1_0", "t5_1_1", "mt5", "umt5", "byt5", "t5gemma", "t5gemma2"} & set(names)
    assert "cpu" in gin_files.shipped("hardware")
