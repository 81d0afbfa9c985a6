"""Misspelt keywords of the Python interface."""

import inspect

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
        (lambda: distill.load("d", zzz=1), "has no argument 'zzz'; it has path, decode"),
    ],
)  # fmt: skip
def test_an_unknown_keyword_is_named_with_the_nearest_one(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_signatures_and_known_keywords_are_those_of_the_function():
    assert list(inspect.signature(distill.load).parameters) == ["path", "decode"]
    with pytest.raises(FileNotFoundError):
        distill.load("no such directory", decode=None)
    with pytest.raises(ValueError, match="method must be one of"):
        distill.train([], model="m", directory="d", method="x", callbacks=(), steps=1)
