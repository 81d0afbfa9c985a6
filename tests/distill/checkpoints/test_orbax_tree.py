"""Trees that Orbax wrote, and metadata that is none of Orbax's."""

import json

import numpy as np
import orbax.checkpoint as ocp
import pytest

from distill.checkpoints import orbax_tree

TREE = {"params": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}, "step": np.int32(7)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax") / "tree"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
        writer.save(folder, args=ocp.args.PyTreeSave(TREE))
    return folder


def test_every_array_by_its_path(written):
    assert orbax_tree.is_tree(written)
    assert sorted(orbax_tree.paths(written)) == ["params/b", "params/w", "step"]
    found = orbax_tree.tensors(written)
    assert sorted(found) == ["params/b", "params/w", "step"]
    np.testing.assert_array_equal(found["params/w"].read(), TREE["params"]["w"])
    assert found["params/w"].info == ((2, 3), "float32")
    assert int(found["step"].read()) == 7


def test_a_part_of_the_tree(written):
    assert sorted(orbax_tree.tensors(written, ("params",))) == ["params/b", "params/w"]
    assert orbax_tree.tensors(written, ("absent",)) == {}


def test_no_tree(tmp_path):
    assert not orbax_tree.is_tree(tmp_path)
    with pytest.raises(FileNotFoundError, match="_METADATA"):
        orbax_tree.tensors(tmp_path)


def entry(*names, kind="jax.Array"):
    keys = [{"key": name, "key_type": 2} for name in names]
    return {"key_metadata": keys, "value_metadata": {"value_type": kind}}


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not JSON"),
        ("[" * 10**5, "is not JSON"),
        ("[]", "must hold a JSON object; got a list"),
        ("{}", "expected a map 'tree_metadata'"),
        (json.dumps({"tree_metadata": []}), "expected a map 'tree_metadata'"),
        (json.dumps({"tree_metadata": {"a": {}}}), "expected key_metadata and value_metadata"),
        (json.dumps({"tree_metadata": {"a": 3}}), "expected key_metadata and value_metadata"),
        (json.dumps({"tree_metadata": {"a": entry()}}), "an array without a name"),
        (json.dumps({"tree_metadata": {"a": entry("..")}}), "expected a name inside"),
        (json.dumps({"tree_metadata": {"a": entry("b", "c/d")}}), "expected a name inside"),
    ],
)
def test_metadata_that_is_refused(tmp_path, content, message):
    (tmp_path / "_METADATA").write_text(content)
    with pytest.raises(ValueError, match=message):
        orbax_tree.paths(tmp_path)


def test_leaves_that_are_no_arrays_are_passed_over(tmp_path):
    tree = {"a": entry("a"), "b": entry("b", kind="None"), "c": entry("c", "0", kind="np.ndarray")}
    (tmp_path / "_METADATA").write_text(json.dumps({"tree_metadata": tree}))
    assert orbax_tree.paths(tmp_path) == ["a", "c/0"]


def test_an_array_that_is_not_in_the_database_is_named(tmp_path):
    (tmp_path / "_METADATA").write_text(json.dumps({"tree_metadata": {"a": entry("params", "w")}}))
    with pytest.raises(ValueError, match="params/w cannot be opened"):
        orbax_tree.tensors(tmp_path)
