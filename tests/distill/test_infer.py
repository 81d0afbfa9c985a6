"""Answers for JSON lines: order, bad lines, restart; and scoring a trained student again."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from distill import evaluate, partitioning, train
from distill.evaluate import DecodeConfig, Decoder, bucket_lengths
from distill.infer import infer
from distill.parameters import init_params, param_logical_axes
from distill.precompile import costs
from tasks import jsonl, registration, vocabularies
from tasks.records import RowError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
DECODE = DecodeConfig(max_decode_len=4, max_input_len=32, batch_size=8)


@pytest.fixture
def student(tmp_path, arguments):
    """A trained student's directory and what inference wants to know about it."""
    train.train(str(tmp_path / "run"), **arguments)
    return {
        "model_dir": str(tmp_path / "run"),
        "model": arguments["model"],
        "dataset": jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="sums"),
        "vocabulary": vocabularies.load("bytes"),
        "decode": DECODE,
        "mesh": arguments["mesh"],
    }


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_out_for_every_line_in(tmp_path, student):
    rows = [{"id": f"r{i}", "input": "1 and 2?" * (1 + i % 3)} for i in range(19)]
    rows[3:3] = ["garbage", "[1]", {"id": "x", "text": "no input"}, ""]
    write(tmp_path / "in.jsonl", rows)
    report = infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), rationale=True, **student)
    out = read(tmp_path / "out.jsonl")
    assert (report.answered, report.found, report.failed) == (19, 0, 4)
    assert [row["line"] for row in out] == list(range(1, 24))
    assert [row.get("id") for row in out] == [row.get("id") if isinstance(row, dict) else None for row in rows]
    assert "not a line of JSON" in out[3]["error"]
    assert out[4]["error"] == "expected a JSON object; got list"
    assert out[5]["error"] == "no text in field 'input'; the row has ['id', 'text']"
    assert "empty line" in out[6]["error"]
    assert all(row["score"] < 0 and isinstance(row["rationale"], str) for row in out if "label" in row)


def test_a_row_is_answered_the_same_in_any_company(tmp_path, student):
    texts = ["1 and 2?", "3 and 4 and 5 and 6?", "0 and 0?"]
    write(tmp_path / "all.jsonl", [{"input": text} for text in texts])
    infer(str(tmp_path / "all.jsonl"), str(tmp_path / "all.out"), **student)
    for number, text in enumerate(texts):
        write(tmp_path / f"{number}.jsonl", [{"input": text}])
        infer(str(tmp_path / f"{number}.jsonl"), str(tmp_path / f"{number}.out"), **student)
        alone, together = read(tmp_path / f"{number}.out")[0], read(tmp_path / "all.out")[number]
        assert alone["label"] == together["label"]
        assert alone["score"] == pytest.approx(together["score"], abs=1e-4)


def test_an_unfinished_output_is_gone_on_with(tmp_path, student):
    write(tmp_path / "in.jsonl", [{"input": f"{i} and 1?"} for i in range(12)])
    infer(str(tmp_path / "in.jsonl"), str(tmp_path / "whole.jsonl"), chunk=4, **student)
    whole = (tmp_path / "whole.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "part.jsonl").write_text("".join(lines[:4]) + lines[4][:7])
    report = infer(str(tmp_path / "in.jsonl"), str(tmp_path / "part.jsonl"), chunk=4, **student)
    assert (report.answered, report.found) == (8, 4)
    assert (tmp_path / "part.jsonl").read_text() == whole


def test_an_output_of_something_else_is_not_touched(tmp_path, student):
    write(tmp_path / "in.jsonl", [{"input": "1 and 1?"}])
    write(tmp_path / "out.jsonl", [{"precious": True}])
    with pytest.raises(ValueError, match=r"out.jsonl:1 is not a line this command wrote"):
        infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), **student)
    assert read(tmp_path / "out.jsonl") == [{"precious": True}]


def test_inputs_can_be_templates(tmp_path, student):
    write(tmp_path / "in.jsonl", [{"a": "1", "b": 2}, {"a": "1"}, {"a": "1", "b": {}}, {"a": "1", "b": ["x", "y"]}])
    infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), input_field="{a} and {b}?", **student)
    out = read(tmp_path / "out.jsonl")
    assert "label" in out[0]
    assert out[1]["error"] == "no text in field 'b'; the row has ['a']"
    assert out[2]["error"] == "field 'b' is not text but dict"
    assert "label" in out[3]
    for nothing in (None, "", " ", [], ["", None]):
        with pytest.raises(RowError, match=r"no text in field 'b'; the row has \['a', 'b'\]"):
            jsonl.text_of({"a": "1", "b": nothing}, "{a} {b}")
    assert jsonl.text_of({"a": "1", "b": ["x", "y"]}, "{a}? {b}") == "1? (a) x\n(b) y"  # as in training


def test_no_student(tmp_path, student):
    write(tmp_path / "in.jsonl", [{"input": "1 and 1?"}])
    with pytest.raises(FileNotFoundError, match="no student was trained there"):
        infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), **{**student, "model_dir": str(tmp_path / "no")})


def test_evaluation_of_a_trained_student(tmp_path, student, sums):
    again = evaluate.evaluate(
        student["model_dir"], model=student["model"], task_name=sums.label, decode=DECODE, mesh=student["mesh"]
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert again.metrics == result["test"]
    stem = tmp_path / "run" / "predictions" / f"{sums.label}_test"
    assert json.loads(stem.with_suffix(".metrics.json").read_text()) == again.metrics
    rationales = evaluate.evaluate(
        student["model_dir"], model=student["model"], task_name=sums.rationale, split="validation",
        decode=DecodeConfig(max_decode_len=8, max_input_len=32, batch_size=8), mesh=student["mesh"],
    )  # fmt: skip
    assert {"rouge_l", "bleu"} <= set(rationales.metrics)


def test_a_mixture_cannot_be_evaluated(student, sums):
    with pytest.raises(ValueError, match="cannot be evaluated"):
        evaluate.evaluate(student["model_dir"], model=student["model"], task_name=sums.mixed, mesh=student["mesh"])
    with pytest.raises(ValueError, match="sums_label"):
        registration.get("sums_lable")


def test_decoder_keeps_order_and_cuts_long_inputs(arguments):
    params = init_params(arguments["model"], jax.random.key(0))
    decoder = Decoder(arguments["model"], arguments["mesh"].build(), DecodeConfig(4, 16, 4, bucket=8))
    inputs = [np.full(length, 5, np.int32) for length in (3, 40, 9, 16, 1, 12)]
    together = decoder(params, inputs)
    for got, one in zip(together, inputs):
        alone = decoder(params, [one])[0]
        np.testing.assert_array_equal(got.tokens, alone.tokens)
        assert got.log_prob == pytest.approx(alone.log_prob, abs=1e-4)


def test_whole_copies_decode_as_split_parameters_do(arguments):
    """And they are gathered before anything else; the program says so."""
    model = dataclasses.replace(arguments["model"], scan_layers=True)
    mesh = partitioning.MeshConfig(1, 4, 2).build()
    params = init_params(model, jax.random.key(0))
    params = jax.device_put(params, partitioning.param_shardings(params, param_logical_axes(model), mesh))
    inputs = [np.arange(2, 2 + length, dtype=np.int32) for length in (3, 9, 16, 5)]
    answers, gathered = {}, {}
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        for param_gather in ("layer", "step"):
            decoder = Decoder(model, mesh, DecodeConfig(4, 16, 4, bucket=16, param_gather=param_gather))
            answers[param_gather] = decoder(params, inputs)
            text = decoder.lower(params, 16)[0].compile().as_text()
            found = costs.analyse(text, dict(mesh.shape)).collectives
            first = [one.result_bytes for one in found if one.op_name == "jit(run)/sharding_constraint"]
            gathered[param_gather] = sum(first)
    for split, whole in zip(answers["layer"], answers["step"]):
        np.testing.assert_array_equal(split.tokens, whole.tokens)
        assert split.log_prob == pytest.approx(whole.log_prob, rel=1e-5)
    split = [leaf for leaf in jax.tree.leaves(params) if "fsdp" in leaf.sharding.spec]
    ways = [mesh.shape["model"] if "model" in leaf.sharding.spec else 1 for leaf in split]
    assert gathered == {"layer": 0, "step": sum(leaf.nbytes / n for leaf, n in zip(split, ways))}


def test_bucket_lengths():
    assert bucket_lengths(32, 200) == [32, 48, 64, 96, 128, 192, 200]
    assert bucket_lengths(32, 32) == [32]
    assert bucket_lengths(1, 4) == [1, 2, 3, 4]
    lengths = bucket_lengths(32, 1024)
    assert len(lengths) == 11
    assert all(next(n for n in lengths if n >= row) <= 1.5 * row for row in range(32, 1025))


@pytest.mark.parametrize(
    "setting", [{"method": "greedyy"}, {"beam_rule": "t5"}, {"batch_size": 0}, {"param_gather": "x"}]
)
def test_bad_decode_settings(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        DecodeConfig(**setting)
