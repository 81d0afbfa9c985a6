"""Misspelt keywords of the Python interface."""

import inspect

import numpy as np
import pytest

import distill


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distill.train([], model="m", directory="d", step=3), r"^train\(\) has no argument 'step'; .* 'steps'"),
        (lambda: distill.train([], model="m", directory="d", TRAIN_STEPS=3), "give steps=…"),
        (lambda: distill.train([], model="m", directory="d", EMA_DECAY=1), r"give macros as settings=\{'EMA_DECAY': …\}"),
        (lambda: distill.train([], model="m", directory="d", calbacks=()), "did you mean 'callbacks'"),
        (lambda: distill.evaluate(None, [], field={}), "did you mean 'fields'"),
        (lambda: distill.load("d", decoder=None), "did you mean 'decode'"),
        (lambda: distill.read("x", feilds={}), "did you mean 'fields'"),
        (lambda: distill.read("x", parsr="p"), "did you mean 'parser'"),
        (lambda: distill.register("x", subsampel=1), "did you mean 'subsample'"),
        (lambda: distill.from_gin("x", binding=()), "did you mean 'bindings'"),
        (lambda: distill.Student.answer(None, ["x"], rationales=True), r"Student\.answer\(\) .*did you mean 'rationale'"),
        (lambda: distill.Student.export(None, "x", quantisation="i"), "did you mean 'quantization'"),
        (lambda: distill.Run.train(None, quite=True), "did you mean 'quiet'"),
        (lambda: distill.load("d", zzz=1), "has no argument 'zzz'; it has path, decode, rationale_decode"),
        (lambda: distill.read("x", feilds={}), r"did you mean 'fields' or 'files'\?$"),
    ],
)  # fmt: skip
def test_an_unknown_keyword_is_named_with_the_nearest_one(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_signatures_and_known_keywords_are_those_of_the_function():
    assert list(inspect.signature(distill.load).parameters) == ["path", "decode", "rationale_decode"]
    with pytest.raises(FileNotFoundError):
        distill.load("no such directory", decode=None)
    with pytest.raises(ValueError, match="method must be one of"):
        distill.train([], model="m", directory="d", method="x", callbacks=(), steps=1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: distill.train([], model="t5_1_1_tiny", directory="x", lengths=64), "lengths must be a dict such as"),
        (lambda: distill.train([], model="t5_1_1_tiny", directory="x", fields=["a", "b"]), "fields must be a dict"),
        (lambda: distill.read([{"input": "1"}], fields=["a"]), "fields must be a dict such as .*got .*list"),
        (lambda: distill.evaluate("runs/py", "test.jsonl"), r"distill\.load\('runs/py'\); got 'runs/py' \(str\)"),
        (lambda: distill.Student.texts_of(None, None), r"inputs must be a list of texts .*got None"),
        (
            lambda: distill.train([], model="m", directory="x", mesh="x"),
            r"^mesh must be MeshConfig or None; got 'x' \(str\)$",
        ),
        (
            lambda: distill.train([], model="m", directory="x", vocabulary=3),
            "^vocabulary must be str or PathLike or None; got 3",
        ),
        (lambda: distill.train([], model="m", directory="x", batch_size="8"), r"got '8' \(str\); remove the quotes$"),
        (lambda: distill.train([], model="m", directory=None), r"^directory must be str or PathLike; got None"),
        (lambda: distill.load(3), "^path must be str or PathLike; got 3"),
        (lambda: distill.evaluate(None, [], answer=3), "^answer must be str or None; got 3"),
        (lambda: distill.Student.export(None, "x", "hf", quantization=8), "^quantization must be str or None; got 8"),
    ],
)
def test_an_argument_of_another_type_is_named_with_an_example(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**22])
def test_a_number_that_is_not_finite_or_too_large_is_a_value_error(value):
    with pytest.raises(ValueError, match=r"^learning_rate must be a (finite number|number of at most 64 bits); got "):
        distill.train([], model="m", directory="d", learning_rate=value)


def test_numbers_of_numpy_are_numbers_and_a_missing_argument_is_pythons_error():
    with pytest.raises(ValueError, match="method must be one of"):
        distill.train([], model="m", directory="d", method="x", steps=np.int64(3), lam=np.float32(1), seed=np.int32(0))
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'directory'"):
        distill.train([], model="m")
