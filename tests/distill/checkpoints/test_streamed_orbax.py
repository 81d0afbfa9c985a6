"""Orbax checkpoints whose arrays are made one at a time: Orbax itself reads them, and no array is one large chunk."""

import json

import numpy as np
import orbax.checkpoint as ocp
import pytest

from distill.checkpoints import arrays, orbax_tree, streamed_orbax
from distill.checkpoints.streamed_orbax import Json, Leaf


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return {"big": rng.normal(size=(40, 6)).astype(np.float32), "small": np.arange(3, dtype=np.float32)}


def test_orbax_restores_what_was_streamed(tmp_path, values):
    tree = {"a": {"kernel": Leaf(0, lambda: values["big"])}, "b": Leaf(1, lambda: values["small"]), "step": np.int32(7)}
    streamed_orbax.save(tmp_path / "run", 7, {"params": tree, "model": Json({"width": 6})})
    with ocp.CheckpointManager(
        tmp_path / "run", item_handlers={"params": ocp.PyTreeCheckpointHandler(), "model": ocp.JsonCheckpointHandler()}
    ) as manager:
        assert manager.latest_step() == 7
        restored = manager.restore(
            7, args=ocp.args.Composite(params=ocp.args.PyTreeRestore(), model=ocp.args.JsonRestore())
        )
    np.testing.assert_array_equal(restored["params"]["a"]["kernel"], values["big"])
    np.testing.assert_array_equal(restored["params"]["b"], values["small"])
    assert restored["params"]["step"] == 7
    assert restored["model"] == {"width": 6}


def test_arrays_are_made_in_their_order_and_one_is_written_before_the_next(tmp_path, values, monkeypatch):
    events = []
    write = streamed_orbax._LeafHandler._open_and_write

    async def noted(self, value, *rest):
        await write(self, value, *rest)
        events.append(("written", value.shape))

    def leaf(order, name):
        return Leaf(order, lambda: events.append(("made", values[name].shape)) or values[name])

    monkeypatch.setattr(streamed_orbax._LeafHandler, "_open_and_write", noted)
    streamed_orbax.save(tmp_path / "run", 0, {"params": {"first_by_name": leaf(1, "big"), "then": leaf(0, "small")}})
    assert events == [("made", (3,)), ("written", (3,)), ("made", (40, 6)), ("written", (40, 6))]


def test_an_array_is_written_in_chunks(tmp_path, values, monkeypatch):
    monkeypatch.setattr(streamed_orbax, "CHUNK_BYTES", 96)
    streamed_orbax.save(tmp_path, 0, {"state": {"kernel": Leaf(0, lambda: values["big"])}}, step_prefix="checkpoint")
    tensor = orbax_tree.tensors(tmp_path / "checkpoint_0" / "state")["kernel"]
    assert tensor.info == arrays.TensorInfo((40, 6), "float32")
    np.testing.assert_array_equal(tensor.read(), values["big"])
    metadata = json.loads(tensor_metadata(tmp_path / "checkpoint_0" / "state"))
    assert 4 * np.prod(metadata["chunks"]) <= 96


def tensor_metadata(folder):
    """The ``.zarray`` of the only array of a tree in an OCDBT database."""
    import tensorstore

    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{folder}/"}).result()
    return store.read("kernel/.zarray").result().value


def test_an_error_of_a_leaf_leaves_no_step(tmp_path, values):
    def broken():
        raise ValueError("the source is damaged")

    tree = {"first": Leaf(0, lambda: values["small"]), "second": Leaf(1, broken)}
    with pytest.raises(ValueError, match="the source is damaged"):
        streamed_orbax.save(tmp_path / "run", 3, {"params": tree})
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.isdigit()]
