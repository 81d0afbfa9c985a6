"""Trees that Orbax wrote, and metadata that is none of Orbax's."""

import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.checkpoints import orbax_tree
from tests.distill.checkpoints.t5x.written import loads_or_refuses, refused

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
        (json.dumps({"tree_metadata": {"a": entry("b", "c/../d")}}), "expected a name inside"),
        (json.dumps({"tree_metadata": {"a": entry("b", "/c")}}), "expected a name inside"),
        (json.dumps({"tree_metadata": {"a": entry("b", "c//d")}}), "expected a name inside"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ("{}", "tree_metadata"),
        ('{"tree_metadata": {"a": 3}}', "expected key_metadata"),
        (
            '{"tree_metadata": {"a": {"key_metadata": [], "value_metadata": {"value_type": "jax.Array"}}}}',
            "without a name",
        ),
        (
            '{"tree_metadata": {"a": {"key_metadata": [{"key": "../x"}], "value_metadata": {"value_type": "jax.Array"}}}}',
            "inside",
        ),
        (
            '{"tree_metadata": {"a": {"key_metadata": [{"key": "x"}], "value_metadata": {"value_type": "jax.Array"}}}}',
            "cannot be opened",
        ),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_orbax_metadata_that_is_not_believed(content, message, orbax, tmp_path):
    shutil.copytree(orbax, tmp_path / "copy")
    (tmp_path / "copy" / "state" / orbax_tree.METADATA_FILE).write_text(content)
    refused(tmp_path / "copy", message)


def test_damaged_orbax_databases(orbax, tmp_path):
    for number, name in enumerate(("manifest.ocdbt", "d")):
        folder = tmp_path / str(number)
        shutil.copytree(orbax, folder)
        victims = (
            [folder / "state" / name] if name != "d" else [f for f in (folder / "state").rglob("d/*") if f.is_file()]
        )
        for victim in victims:
            victim.write_bytes(victim.read_bytes()[:20])
        refused(folder, "cannot be")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz_orbax_files(data, orbax, tmp_path):
    folder = tmp_path / "fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(orbax, folder)
    victim = data.draw(st.sampled_from(sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())))
    content = bytearray((folder / victim).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / victim).write_bytes(bytes(content))
    loads_or_refuses(folder)
