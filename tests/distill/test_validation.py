"""A value that must be one of a few, or in a range."""

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


@pytest.mark.parametrize(
    ("expected", "inside", "outside"),
    [
        ("≥ 1", (1, 1.5, float("inf")), (0, 0.99, float("nan"), None, "1", [2])),
        ("> 0", (1e-9,), (0, 0.0, -1, None)),
        ("> 0 or None", (2, None), (0, "None")),
        ("in [0, 1)", (0, 0.5), (1, -0.1, None)),
        ("in (0, 1]", (1, 0.5), (0, 1.1)),
        ("in (0, 1) or None", (0.5, None), (0, 1)),
        ("an integer ≥ 1", (1, 2), (1.0, True, 0, None)),
        ("an integer ≥ 1 or -1", (1, -1), (0, -2)),
        ("a finite number ≥ 0", (0, 3.5), (float("inf"), -1e-9)),
        ("in [0, steps)", (0, 19), (20, -1)),
    ],
)
def test_ranges(expected, inside, outside):
    for value in inside:
        assert validation.check_range("Config.size", value, expected, steps=20) is None, value
    shown = expected.replace("steps", "steps=20")
    for value in outside:
        with pytest.raises(ValueError) as caught:
            validation.check_range("Config.size", value, expected, steps=20)
        assert str(caught.value) == f"Config.size must be {shown}; got {value!r}"


def test_a_schedule_has_no_range_and_a_misspelt_range_is_a_bug():
    assert validation.check_range("Config.rate", lambda step: -1.0, "> 0") is None
    with pytest.raises(TypeError, match="no range: '>= 1'"):
        validation.check_range("Config.size", 1, ">= 1")


def test_items_of_a_mapping():
    assert validation.check_items("sizes", {"b": 1, "a": 2}, ("a", "b"), "≥ 1") is None
    for value, message in (
        ({"a": 1}, r"^sizes must name exactly 'a' and 'b'; got \['a'\]$"),
        ({"a": 1, "b": 1, "c": 1}, "got \\['a', 'b', 'c'\\]"),
        ({"a": 1, "b": 0}, r"^sizes\['b'\] must be ≥ 1; got 0$"),
    ):
        with pytest.raises(ValueError, match=message):
            validation.check_items("sizes", value, ("a", "b"), "≥ 1")


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


def test_a_shortened_value_keeps_both_quotes_and_shows_that_something_is_left_out():
    assert validation.quoted("a" * 78) == repr("a" * 78), "it fits"
    assert validation.quoted("a" * 79) == f"'{'a' * 77}…'"
    assert validation.quoted("it's long", 8) == '"it\'s …"'
    assert validation.quoted({"a": "b" * 50}, 20) == "{'a': 'bbbbbbbbbbbb…"
    assert validation.quoted(10**5000) == "int", "Python writes no whole number of so many digits"
