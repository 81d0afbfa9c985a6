import dataclasses
import math

import pytest

from distill.inference.evaluate import Decoder, Evaluator
from distill.sharding import partitioning
from distill.terminal import Terminal
from distill.training import evaluators


def test_the_split_that_only_the_test_reads(arguments):
    validation = arguments["validation"]
    assert evaluators.final_split(validation) == "test"
    assert evaluators.final_split(dataclasses.replace(validation, test_split=validation.split)) is None
    assert evaluators.final_split(None) is None


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_names_its_split_metric_and_step(arguments, score):
    validation = arguments["validation"]
    assert evaluators.validation_score(validation, 3, {validation.metric: 0.25}) == 0.25
    with pytest.raises(FloatingPointError, match=rf"^validation {validation.metric} is {score} at step 3; nothing"):
        evaluators.validation_score(validation, 3, {validation.metric: score})


def test_the_splits_that_are_read(arguments, capsys):
    validation = arguments["validation"]
    decoder = Decoder(arguments["model"], partitioning.MeshConfig(1, 1, 1).build(), validation.decode)
    assert evaluators.make_evaluators(None, None, Terminal()) == {}
    read = evaluators.make_evaluators(dataclasses.replace(validation, max_examples=3), decoder, Terminal())
    assert list(read) == ["validation", "test"]
    assert len(read["validation"]) == 3 < len(read["test"])  # the final test takes all rows
    capsys.readouterr()
    evaluators.make_evaluators(validation, decoder, Terminal(), 2)
    told = " ".join(capsys.readouterr().err.split())
    assert "split 'test':" in told and "more than 2 tokens, the most that training read of an input" in told
    same = dataclasses.replace(validation, test_split="validation")
    assert list(evaluators.make_evaluators(same, decoder, Terminal())) == ["validation"]
    assert "its score is not that of unseen rows" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="no_such"):
        evaluators.make_evaluators(dataclasses.replace(validation, metric="no_such"), decoder, Terminal())


def test_rows_that_are_not_scored_are_warned_of(arguments, capsys, monkeypatch):
    validation = arguments["validation"]
    decoder = Decoder(arguments["model"], partitioning.MeshConfig(1, 1, 1).build(), validation.decode)
    monkeypatch.setattr(Evaluator, "_without_target", lambda self: "1 of 4 rows has no label")
    evaluators.make_evaluators(validation, decoder, Terminal())
    assert "split 'test': 1 of 4 rows has no label" in " ".join(capsys.readouterr().err.split())
