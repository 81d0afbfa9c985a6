"""A value that must be one of a few."""

import pytest

from distill import validation


def test_the_error_states_the_choices_the_value_and_the_nearest():
    with pytest.raises(ValueError) as caught:
        validation.check("Config.mode", "grene", ("green", "red"))
    assert str(caught.value) == "Config.mode must be one of ('green', 'red'); got 'grene'; did you mean 'green'?"


@pytest.mark.parametrize("value", [None, 3, "", "blue-ish"])
def test_nothing_near_gives_no_suggestion(value):
    with pytest.raises(ValueError, match=r"got .*[^?]$"):
        validation.check("Config.mode", value, ("green", "red"))


def test_a_choice_is_accepted():
    assert validation.check("Config.mode", "red", ("green", "red")) is None


@pytest.mark.parametrize("name", ["a", "train-00000-of-00001", "é" * 127, " ", "..."])
def test_plain_names(name):
    assert validation.is_plain_name(name)


@pytest.mark.parametrize(
    "name", [None, 3, b"a", "", ".", "..", "a/b", "a\\b", "a\0", "a\n", "\ud800", "é" * 128, "a" * 256]
)
def test_names_that_are_not_plain(name):
    assert not validation.is_plain_name(name)


def test_another_limit_of_a_name():
    assert validation.is_plain_name("a" * 1024, 1024) and not validation.is_plain_name("a" * 1025, 1024)
