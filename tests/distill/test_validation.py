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
