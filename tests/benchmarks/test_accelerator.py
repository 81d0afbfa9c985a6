"""The accelerator benchmark: rows, batches, counted operations, timings, the list of parts, and what it writes."""

import dataclasses
import gzip
import itertools
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import sides
from benchmarks.accelerator import cases, measure, ours, plot, prepare, tiles, timing
from distill.data.packing import Layout
from distill.model.config import T5Config
from distill.sharding.gpu_attention_kernels import Tile
from distill.tasks import task_ids

ROOT = Path(__file__).resolve().parents[2]


def test_rows_are_read_as_they_were_written(tmp_path):
    sets = {"nli": prepare.random_rows(7), "cqa": prepare.random_rows(3)}
    cases.write_rows(tmp_path / "rows.npz", sets)
    for name, rows in sets.items():
        found = cases.read_rows(tmp_path / "rows.npz", name)
        assert len(found) == len(rows)
        for one, other in zip(itertools.chain(*found), itertools.chain(*rows), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == np.int32


def test_random_rows_fit_the_windows_and_end_once():
    inputs, targets = cases.LENGTHS["nli"]
    for row in prepare.random_rows(500):
        assert max(len(row.label_inputs), len(row.rationale_inputs)) <= inputs
        assert max(len(row.label_targets), len(row.rationale_targets)) <= targets
        assert all(part[-1] == 1 and np.count_nonzero(part == 1) == 1 for part in row)


def test_batches_hold_every_row_once_per_pass():
    rows = prepare.random_rows(40)
    layout = Layout(4, *cases.LENGTHS["nli"])
    taken, seen = 0, []
    for batch in cases.batches(rows, layout):
        for name in ("encoder_input_tokens", "decoder_target_tokens"):
            assert batch.arrays[name].shape[0] == 4
        chosen = [rows[number % len(rows)] for number in range(taken, taken + batch.examples)]
        assert batch.tokens == sum(row.tokens for row in chosen)
        ids = [batch.arrays[name] for name in ("encoder_segment_ids", "decoder_segment_ids")]
        assert sum(np.count_nonzero(one) for one in ids) == batch.tokens
        assert sum(len(np.unique(line[line != 0])) for line in ids[0]) == 2 * batch.examples
        seen += chosen
        taken += batch.examples
        if taken >= 2 * len(rows):
            break
    assert len(seen) == taken
    # Every target token has weight 1, in both tasks.
    ids, weights = batch.arrays["decoder_task_ids"], batch.arrays["decoder_loss_weights"]
    np.testing.assert_array_equal(weights, ids != task_ids.PAD)
    assert set(np.unique(ids[weights == 1])) == {task_ids.LABEL, task_ids.RATIONALE}


def test_padded():
    got = sides.padded([np.array([4, 5]), np.array([6, 7, 8])], -100, "int64")
    np.testing.assert_array_equal(got, [[4, 5, -100], [6, 7, 8]])
    assert got.dtype == np.int64


def test_step_flops_are_those_that_xla_counts_in_the_step(monkeypatch):
    config = T5Config(4096, 256, 6, 64, 512, 1, 2)
    monkeypatch.setitem(cases.SIZES, "wide", config)
    program = ours.Program("wide", "nli", 4, attention="xla", dropout=0.0, chunk_tokens=0)
    batch = next(cases.batches(prepare.random_rows(40), program.layout))
    counted = ours.lowered(program, batch).cost_analysis()["flops"]  # lowered alone: nothing is compiled
    assert counted == pytest.approx(cases.step_flops(config, 4, *cases.LENGTHS["nli"]), rel=0.03)


def test_rounds_wait_once_each_and_are_summarised():
    calls, waited = [], []

    def call():
        calls.append(time.sleep(0.01))
        return len(calls)

    seconds = timing.rounds(call, waited.append, 3, 2)
    assert (len(calls), waited, len(seconds)) == (6, [2, 4, 6], 3)
    assert all(0.01 <= one < 1.0 for one in seconds)
    assert timing.summary([0.003, 0.001, 0.0024]) == {"median": 2.4, "least": 1.0, "most": 3.0}


def test_a_step_is_timed_and_one_that_does_not_compile_has_its_error(tmp_path, monkeypatch):
    monkeypatch.setitem(cases.SIZES, "nano", T5Config(32128, 32, 1, 32, 32, 1, 1))
    cases.write_rows(tmp_path / "rows.npz", {"nli": prepare.random_rows(12)})
    good = ours.Program("nano", "nli", 2, dropout=0.0, dtype="float32")
    wrong = dataclasses.replace(good, options=(("xla_no_such_option", 1),))
    rows = ours.run([good, wrong], tmp_path, tmp_path, "nano", 2, 1, 60.0)
    assert json.loads((tmp_path / "ours_nano.json").read_text()) == json.loads(json.dumps(rows))
    assert "xla_no_such_option" in rows[1]["error"] and "milliseconds" not in rows[1]
    timed = rows[0]
    assert "error" not in timed
    median = timed["milliseconds"]["median"] / 1e3
    assert timed["examples_per_second"] == pytest.approx(timed["examples_per_step"] / median, rel=0.02)
    assert all(0 < loss < 100 for loss in timed["losses"])
    assert 0 < timed["padding_share"] < 1 and timed["mfu"] is None and timed["peak_gib"] > 0


def test_labels_name_what_is_not_the_default():
    assert ours.Program("base", "svamp", 96).label == "base svamp 96 auto"
    assert ours.Program("base", "svamp", 96, scan=True, dropout=0.0).label == "base svamp 96 auto scan=True dropout=0.0"
    labels = [program.label for group in ours.groups().values() for program in group]
    assert len(set(labels)) == len(labels)


def test_state_has_the_shapes_of_the_step_that_is_compiled():
    program = ours.Program("tiny", "cqa", 2)
    state = jax.eval_shape(lambda: ours.new_state(program))
    config = program.config
    assert state.params["token_embedder"]["embedding"].shape == (config.vocab_size, config.embed_dim)


def parts_of(size=None, train=None):
    return measure.all_parts(size, Path("data"), train, Path("out"), 989e12)


def test_the_parts_that_decide_most_come_first():
    parts = parts_of(train=Path("train"))
    names = [part.name for part in parts]
    assert names[:2] == ["ours_base", "theirs_base"]
    assert len(set(names)) == len(names)
    assert {"ours_large", "theirs_large", "decoding_ours", "decoding_theirs", "right", "end_to_end"} <= set(names)
    assert names.index("decoding_ours") < names.index("decoding_theirs")  # it writes the student that theirs loads
    assert "end_to_end" not in [part.name for part in parts_of()]
    for part in parts:
        assert 0 < part.limit <= 300
        assert (ROOT / "benchmarks" / "accelerator" / f"{part.arguments[0]}.py").exists()
        assert ("--peak=989000000000000.0" in part.arguments) == part.name.startswith("theirs")


def test_a_size_to_test_with_has_its_parts_and_more_time_for_each():
    limits = {part.name: part.limit for part in parts_of()}
    tiny = {part.name: part for part in parts_of("tiny", Path("train"))}
    assert {"ours_tiny", "theirs_tiny", "right", "attention", "end_to_end"} < set(tiny)
    assert not any("base" in name or "large" in name for name in tiny)
    assert tiny["right"].limit == 3 * limits["right"]
    assert "--size=tiny" in tiny["ours_tiny"].arguments


def run_measure(monkeypatch, tmp_path, *flags):
    """Runs the command in a folder without rows, so that a part fails as soon as it reads them; returns the exit code."""
    argv = ["measure", f"--data={tmp_path}", f"--out={tmp_path / 'out'}", "--size=tiny", *flags]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(SystemExit) as ended:
        measure.main()
    return int(ended.value.code)


def test_a_part_that_fails_is_in_the_result_with_its_log(tmp_path, monkeypatch, capsys):
    assert run_measure(monkeypatch, tmp_path, "--parts=ours_tiny") == 1
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(result["parts"]) == ["ours_tiny"]
    failed = result["parts"]["ours_tiny"]
    assert failed["exit_code"] == 1 and failed["result"] is None
    assert "FileNotFoundError" in failed["log"] and "rows.npz" in failed["log"]
    assert "ours_tiny: exit code 1" in capsys.readouterr().out
    assert result["machine"]["jax"] == jax.__version__
    assert (tmp_path / "out" / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_part_that_could_end_too_late_is_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "device_peak", lambda: None)  # a process that imports JAX
    assert run_measure(monkeypatch, tmp_path, "--parts=right", "--seconds=359") == 1
    (skipped,) = json.loads((tmp_path / "out" / "results.json").read_text())["parts"].values()
    assert skipped["exit_code"] is None and skipped["skipped"].endswith("s are left of 360 s")
    assert not (tmp_path / "out" / "work" / "right.log").exists()


def test_a_part_that_does_not_exist_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "device_peak", lambda: None)
    assert run_measure(monkeypatch, tmp_path, "--parts=ours_tiny,their_tiny") == 2
    told = capsys.readouterr().err
    assert "--parts takes names of ours_tiny, theirs_tiny" in told and "got their_tiny" in told
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_process_that_exceeds_its_limit_is_killed(tmp_path):
    started = time.monotonic()
    ended = measure.run(measure.Part("slow", ["right", f"--data={tmp_path}"], 0.2, "right.json"), tmp_path)
    assert time.monotonic() - started < 5.0
    assert ended["exit_code"] == -9 and ended["result"] is None


def test_the_plot_shows_what_there_is(tmp_path):
    row = {"label": "base svamp 96 auto", "examples_per_second": 10.0}
    decoding = {"results": [{"side": "ours", "case": "label", "batch": 4, "rows_per_second": 3.0}]}
    attention = [{"name": "svamp", "kind": "encoder", "kernel": "xla", "milliseconds": {"median": 2.0}}]
    attention.append({"name": "svamp", "kind": "encoder", "kernel": "triton", "error": "no GPU"})
    parts = {
        "ours_base": {"result": [row, {"label": "base cqa 96 auto", "error": "out of memory"}]},
        "theirs_base": {"result": None},
        "decoding_ours": {"result": decoding},
        "decoding_theirs": {"exit_code": None, "skipped": "no time"},
        "attention": {"result": attention},
    }
    machine = {"gpu": None, "date": "2026-11-26", "jax": jax.__version__}
    for number, chosen in enumerate((parts, {})):
        path = tmp_path / f"{number}.png"
        plot.draw({"parts": chosen, "machine": machine}, path)
        assert path.stat().st_size > 5000
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()


def gpu_profile(folder, *runs):
    """A profile in the profiler's format: the kernels ``runs``, (name, microseconds) in their order, and a host's event."""
    events = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}},
        {"ph": "M", "pid": 7, "name": "process_name", "args": {"name": "/host:CPU"}},
        {"ph": "X", "pid": 7, "ts": 0, "dur": 99, "name": "gpu_attention_forward"},
        *({"ph": "X", "pid": 1, "ts": turn, "dur": time, "name": name} for turn, (name, time) in enumerate(runs)),
    ]
    path = folder / "plugins" / "profile" / "one" / "vm.trace.json.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events[::-1]}).encode()))
    return folder


def test_the_kernels_of_a_profile_belong_to_the_programs_in_their_order(tmp_path):
    names = ("forward", "d_query", "d_key_value")
    runs = [(f"gpu_attention_{name}__2", 10.0 * turn + call) for turn in (1, 2) for call in range(3) for name in names]
    cross, other = tiles.Shape("svamp", 64, 32, "cross"), tiles.Shape("cqa", 64, 32, "cross")
    small, large = Tile(16, 16, 4, 2), Tile(32, 32, 4, 2)
    found = tiles.durations(gpu_profile(tmp_path, *runs))
    rows = tiles.table([(cross, small), (cross, large)], found, 3)
    assert [row["forward"] for row in rows] == [11.0, 21.0] and "d_bias" not in rows[0]
    assert tiles.fastest(rows, cross, "d_query") == [(11.0, small), (21.0, large)]
    assert tiles.fastest(rows, other, "d_query") == []


@pytest.mark.parametrize("programs", [1, 3])
def test_a_profile_of_other_programs_is_refused(tmp_path, programs):
    runs = [(f"gpu_attention_{name}", 1.0) for name in ("forward", "d_query", "d_key_value")] * 2
    found = tiles.durations(gpu_profile(tmp_path, *runs))
    ran = [(tiles.Shape("svamp", 64, 32, "cross"), Tile(16, 16, 4, 2))] * programs
    with pytest.raises(ValueError, match=r"more runs|of 1 runs of gpu_attention_forward"):
        tiles.table(ran, found, 1)
