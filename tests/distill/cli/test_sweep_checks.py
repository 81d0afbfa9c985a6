"""Configured runs: costs by hand, checks once per kind of run, and the slices that meshes fill."""

import dataclasses
import json
import types

import pytest
import seqio

from distill.cli import sweep_checks
from distill.data import cache, examples
from distill.data.packing import Layout
from distill.experiments.sweep import reading
from distill.experiments.sweep.estimates import Bound, Cost
from distill.model.network import T5Config
from distill.precompile.model_flops import forward_flops
from distill.sharding.partitioning import MeshConfig
from distill.tasks import jsonl, registration
from distill.training import checks
from distill.training.config import DataConfig

SIZES = {"embed_dim": 8, "num_heads": 2, "head_dim": 4, "mlp_dim": 16, "num_encoder_layers": 1, "num_decoder_layers": 1}
MODEL = T5Config(vocab_size=64, **SIZES)


def given(steps, task="set_paired"):
    data = types.SimpleNamespace(layout=Layout(4, 8, 8), mixture_or_task_name=task)
    loss = types.SimpleNamespace(normalizer="task_tokens")
    return {
        "model": MODEL,
        "data": data,
        "loss": loss,
        "loop": types.SimpleNamespace(train_steps=steps, trainable=None),
    }


def test_runs_that_differ_in_the_seed_are_configured_once(tmp_path):
    (tmp_path / "s.yaml").write_text("axes: {TRAIN_STEPS: [5, 7], RANDOM_SEED: [0, 1]}")
    sweep, asked = reading.read(tmp_path / "s.yaml", tmp_path / "out"), []

    def configure(run):
        asked.append(run.name)
        return given(int(run.values["TRAIN_STEPS"]))

    configurations = sweep_checks.Configurations(sweep, configure)
    configurations.describe(sweep.runs())
    assert len(asked) == 2
    assert [configurations.costs[run.name].steps for run in sweep.runs()] == [5, 5, 7, 7]
    assert configurations.costs[sweep.runs()[0].name].flops == 3 * forward_flops(MODEL, Layout(4, 8, 8))
    assert configurations.settings[sweep.runs()[0].name].form == "paired"


def test_rates_of_one_ratio_are_one_configuration(tmp_path):
    text = "axes: {r: {a: {bindings: {LABEL_RATE: 1}}, b: {bindings: {LABEL_RATE: 3}}, c: {bindings: {LABEL_RATE: 2}}}}"
    (tmp_path / "s.yaml").write_text(text)
    sweep, seen = reading.read(tmp_path / "s.yaml", tmp_path / "out"), []

    def configure(run):
        label = int(run.bindings[0][-1])
        seen.append({"LABEL_RATE": label, "RATIONALE_RATE": 1 if label == 2 else label})
        return given(5)

    configurations = sweep_checks.Configurations(sweep, configure, lambda: seen[-1])
    configurations.describe(sweep.runs())
    first, same, other = (configurations.settings[run.name].configuration for run in sweep.runs())
    assert first == same != other


def test_the_data_of_runs_that_differ_in_the_seed_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_text("axes: {TRAIN_STEPS: [5, 7], RANDOM_SEED: [0, 1]}")
    sweep, configured, read = reading.read(tmp_path / "s.yaml", tmp_path / "out"), [], []

    def configure(run):
        configured.append(run.values)
        return given(int(run.values["TRAIN_STEPS"]))

    def check(*, loop, metrics, **others):
        read.append((loop.train_steps, metrics))
        if loop.train_steps == 7:
            raise ValueError("no rows")

    monkeypatch.setattr(checks, "check", check)
    configurations = sweep_checks.Configurations(sweep, configure)
    runs = sweep.runs()
    for run in runs[:2]:
        configurations.check(run)
    assert read == [(5, ["accuracy"])]
    for run in runs[2:]:  # one that was refused is refused again
        with pytest.raises(ValueError, match="no rows"):
            configurations.check(run)
    assert [values["RANDOM_SEED"] for values in configured] == ["0", "1", "0", "1"]


def test_the_start_need_not_exist_for_the_checks(tmp_path):
    (tmp_path / "s.yaml").write_text("axes: {A: [1]}\nstart: {gin_files: [a.gin]}")
    sweep, asked = reading.read(tmp_path / "s.yaml", tmp_path / "out"), []
    configurations = sweep_checks.Configurations(sweep, lambda run: asked.append(run.bindings) or given(1))
    configurations.describe(sweep.runs())
    assert not any("INITIAL_CHECKPOINT_PATH" in text for text in asked[0])
    (tmp_path / "out" / "pretraining").mkdir(parents=True)
    (tmp_path / "out" / "pretraining" / "result.json").write_text("{}")
    sweep_checks.Configurations(sweep, lambda run: asked.append(run.bindings) or given(1)).describe(sweep.runs())
    assert any("INITIAL_CHECKPOINT_PATH" in text for text in asked[1])


def test_a_run_takes_the_slice_that_its_mesh_fills():
    slices = [types.SimpleNamespace(name=name, devices=[0] * size) for name, size in (("a", 4), ("b", 16))]
    assert [sweep_checks._fills(MeshConfig(2, 8, 1), one) for one in slices] == [False, True]
    assert [sweep_checks._fills(MeshConfig(-1, 1, 1), one) for one in slices] == [True, True]


def test_sequences_that_are_truncated_are_counted_once_per_data_setting(tmp_path, monkeypatch):
    rows = [{"input": "abc", "label": "12345"}, {"input": "abcdef", "label": "1"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "s.yaml").write_text("axes: {targets: [4, 8], LAMBDA: [1, 2], RANDOM_SEED: [0, 1]}")
    sweep, read = reading.read(tmp_path / "s.yaml", tmp_path / "out"), []
    sample = examples.sample
    monkeypatch.setattr(examples, "sample", lambda *given: read.append(given[2].decoder_length) or sample(*given))
    counted, asked = seqio.Task.num_input_examples, []
    monkeypatch.setattr(seqio.Task, "num_input_examples", lambda *given: asked.append(given) or counted(*given))

    def configure(run):
        files = dict.fromkeys(("train", "validation"), tmp_path / "rows.jsonl")
        names = registration.register(
            jsonl.dataset(files, name="cut", fields={"input": "input", "label": "label"}), "bytes"
        )
        return {"data": DataConfig(names.label, {"inputs": 64, "targets": int(run.values["targets"])}, 4)}

    configurations = sweep_checks.Configurations(sweep, configure)
    for run in sweep.runs():
        configurations.measure(run)
    assert read == [4, 8], "not for another weight of the loss or seed"
    assert len(asked) == 2, "the number of rows, once per sample"
    lines = sweep_checks.lines_of_runs(sweep.runs(), configurations.truncated)
    text = (
        "50.00% of the 2 training sequences are longer than the window and are cut: 1 target (window 4, the longest needs "
        "6 tokens); raise targets in TASK_FEATURE_LENGTHS to keep them whole"
    )
    assert lines == [f"targets=4, LAMBDA=1 and 1 more: {text}"]
    assert sweep_checks.lines_of_runs(sweep.runs()[:4], configurations.truncated) == [text]
    uncached = configure(sweep.runs()[0])["data"]
    cache.build([uncached.mixture_or_task_name], tmp_path / "cache")
    (tmp_path / "rows.jsonl").unlink()
    given = {"data": dataclasses.replace(uncached, cache_dir=str(tmp_path / "cache"))}
    configurations = sweep_checks.Configurations(sweep, lambda run: given)
    configurations.measure(sweep.runs()[0])
    assert configurations.truncated[sweep.runs()[0].name] == [text], "of a cache, without the rows"
    assert read == [4, 8]


def test_lines_of_bounds():
    small, large = Bound(0.01, 16, 2**30, True), Bound(0.2, 16, 32 * 2**30, False)
    assert sweep_checks.bound_lines({"a": small, "b": small, "c": large}) == [
        "a and 1 more: ≥ 10.0 ms per step on 16 chips, 1.00 GiB per device",
        "c: ≥ 200.0 ms per step on 16 chips, 32.00 GiB per device, which do not fit",
    ]
    with pytest.raises(AttributeError):
        small.seconds = 1.0


def test_probes_of_a_search_are_shown_as_only_checked(tmp_path):
    source = {"axes": {"LAMBDA": [1, 2]}, "directory": str(tmp_path / "out")}
    runs = reading.from_document(source, {}, tmp_path / "a.yaml").runs()
    costs = {run.name: Cost(8, 1e9) for run in runs}
    for only_checked, state in ((True, "only checked"), (False, "waiting")):
        table = sweep_checks.table(runs, costs, only_checked=only_checked)
        assert list(table.columns[-1].cells) == [state] * 2
