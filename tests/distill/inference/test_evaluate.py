"""A trained student is scored again, and by other tasks; what cannot be evaluated is refused."""

import json

import pytest

from distill.inference import evaluate
from distill.inference.decoder import DecodeConfig
from distill.tasks import registration
from distill.training import train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
DECODE = DecodeConfig(max_decode_len=4, max_input_len=32, batch_size=8)


def test_evaluation_of_a_trained_student(tmp_path, arguments, sums):
    model_dir = str(tmp_path / "run")
    train.train(model_dir, **arguments)
    student = {"model": arguments["model"], "mesh": arguments["mesh"]}
    again = evaluate.evaluate(model_dir, task_name=sums.label, decode=DECODE, **student)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert again.metrics == result["test"]
    stem = tmp_path / "run" / "predictions" / f"{sums.label}_test"
    assert json.loads(stem.with_suffix(".metrics.json").read_text()) == again.metrics
    longer = DecodeConfig(max_decode_len=32, max_input_len=32, batch_size=8)
    rationales = evaluate.evaluate(model_dir, task_name=sums.rationale, split="validation", decode=longer, **student)
    assert {"rouge_l", "bleu"} <= set(rationales.metrics)


def test_a_mixture_cannot_be_evaluated(model_dir, arguments, sums):
    with pytest.raises(ValueError, match="cannot be evaluated"):
        evaluate.evaluate(model_dir, model=arguments["model"], task_name=sums.mixed, mesh=arguments["mesh"])
    with pytest.raises(ValueError, match="sums_label"):
        registration.get("sums_lable")
