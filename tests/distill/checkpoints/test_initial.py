"""A run's initial parameters, from checkpoints of every kind: logged, placed, and refused if of another shape."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from distill import terminal
from distill.checkpoints import initial
from distill.model.parameters import param_logical_axes, param_shapes, unstack_layers
from distill.sharding import partitioning
from tests.distill.checkpoints.written import CONFIG, random_params, same, write_source


def shardings_of(config):
    mesh = partitioning.MeshConfig(1, 1, 1).build()
    return partitioning.param_shardings(
        param_shapes(config), param_logical_axes(config), mesh, partitioning.DEFAULT_RULES
    )


def test_what_a_run_starts_from_is_said_and_laid_out(tmp_path, caplog):
    params = random_params(CONFIG)
    stacked = dataclasses.replace(CONFIG, scan_layers=True)
    for kind, name in (("hf", "Hugging Face"), ("distill", "distill"), ("t5x", "T5X"), ("t5x_orbax", "T5X")):
        write_source(tmp_path / kind, CONFIG, params, kind)
        with caplog.at_level(logging.INFO):
            loaded = initial.load(str(tmp_path / kind), stacked, shardings_of(stacked))
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
        same(unstack_layers(jax.tree.map(np.asarray, loaded), stacked)[0], params)
        (line,) = [record for record in caplog.records if hasattr(record, "notice")]
        told = line.getMessage()
        assert f"starting from the {name} checkpoint" in told
        assert terminal.LogFormat().format(line) == told  # no warning
        assert "vocabulary 20, width 8, 2 + 3 layers, separate output kernel, 4,056 parameters" in told
        caplog.clear()


@pytest.mark.parametrize("kind", ["hf", "distill", "t5x", "t5x_orbax"])
def test_a_student_of_another_shape_is_refused(kind, tmp_path):
    write_source(tmp_path / "source", CONFIG, random_params(CONFIG), kind)
    for changes in ({"vocab_size": 24}, {"embed_dim": 16}, {"num_encoder_layers": 3}, {"logits_via_embedding": True}):
        other = dataclasses.replace(CONFIG, **changes)
        with pytest.raises(ValueError, match=r"does not fit the configuration|is of another model"):
            initial.load(str(tmp_path / "source"), other, shardings_of(other))


def test_kinds(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^INITIAL_CHECKPOINT_PATH=.*is no checkpoint: expected"):
        initial.kind_of(str(tmp_path / "empty"))
    for path in (str(tmp_path / "absent"), "./absent", "gs://bucket", "a/b/c"):
        if not path.startswith("gs://"):
            with pytest.raises(FileNotFoundError):
                initial.kind_of(path)
    assert initial.kind_of("google/t5-v1_1-small") == initial.HUGGING_FACE
    (tmp_path / "run" / "checkpoint_3").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint_3" / "checkpoint").touch()
    assert initial.kind_of(str(tmp_path / "run")) == initial.T5X
    assert initial.kind_of(str(tmp_path / "run" / "checkpoint_3" / "checkpoint")) == initial.T5X
