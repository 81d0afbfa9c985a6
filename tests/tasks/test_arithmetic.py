import operator
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.tasks import arithmetic


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("( ( 17.0 + 15.0 ) + 2.0 )", 34),
        ("(2)", 2),
        ("( 0.1 + 0.2 )", Fraction(3, 10)),
        ("-(3 - 5)", 2),
        ("7 // 2 + 7 % 4", 6),
        ("2 ** -3", Fraction(1, 8)),
        ("1e3 / 8", 125),
        (" 84 / 2 ", 42),
    ],
)
def test_has_the_value(expression, value):
    assert arithmetic.evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        None,
        " ",
        "1 / 0",
        "5 % 0",
        "0 ** -1",
        "9 ** 9 ** 9",
        "10 ** 65",
        "(-8) ** (1 / 3)",
        "(175, 5)",
        "(2 * x)",
        "some - 8",
        "__import__('os').getcwd()",
        "(28 - 13) and (28 - 15)",
        "7x = 14",
        "(7)(3)",
        "1 if 2 else 3",
        "[1][0]",
        "1 < 2",
        "'a'",
        "1j",
        "True",
        "((491 - 21",
        "(" * 5000,
        "1" * 5000,
        "1e400",
        "007",
        "1_000",
        "0x1f",
        "\x00",
        "\ud800",
        "１＋１",
        "lambda: 1",
    ],
)
def test_has_no_value_and_does_not_raise(expression):
    assert arithmetic.evaluate(expression) is None


@settings(max_examples=200)
@given(st.text(alphabet="0123456789.+-*/%() eE", max_size=arithmetic.MAX_LENGTH + 10))
def test_any_string_of_arithmetic_characters_is_quick_and_safe(text):
    start = time.perf_counter()
    value = arithmetic.evaluate(text)
    assert time.perf_counter() - start < 0.5
    assert value is None or isinstance(value, Fraction)


@settings(max_examples=200)
@given(st.text(max_size=300))
def test_any_text_is_safe(text):
    value = arithmetic.evaluate(text)
    assert value is None or isinstance(value, Fraction)


def test_the_worst_towers_are_quick():
    start = time.perf_counter()
    for text in ("9**64" + "**64" * 50, "(9**64)**64**64", "*".join(["9**64"] * 42), "(9**64/7**64)**64", "1e308**64"):
        arithmetic.evaluate(text)
    assert time.perf_counter() - start < 1.0


_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def _combine(left, sign, right):
    text = f"({left[0]} {sign} {right[0]})"
    if left[1] is None or right[1] is None or (sign == "/" and right[1] == 0):
        return text, None
    return text, _OPERATORS[sign](left[1], right[1])


_NUMBERS = st.integers(0, 10**6).map(str) | st.decimals(0, 10**4, places=2).map(str)
_EXPRESSIONS = st.recursive(
    _NUMBERS.map(lambda text: (text, Fraction(text))),
    lambda inner: st.builds(_combine, inner, st.sampled_from("+-*/"), inner),
    max_leaves=8,
)


@settings(max_examples=200)
@given(_EXPRESSIONS)
def test_the_value_is_exact(expression):
    text, value = expression
    assert len(text) <= arithmetic.MAX_LENGTH
    assert arithmetic.evaluate(text) == value


def test_junctions_only_where_asked_for():
    assert arithmetic.evaluate("((29/2) and (30/2))", junctions=True) == 15
    assert arithmetic.evaluate("(3 - 3) and (30/2)", junctions=True) == 0
    assert arithmetic.evaluate("(3 - 3) or (30/2)", junctions=True) == 15
    assert arithmetic.evaluate("1 and os", junctions=True) is None
    assert arithmetic.evaluate("(14, 21)", junctions=True) is None


def test_same_value():
    assert arithmetic.same_value("( 84.0 / 2.0 )", "(84 / 2)")
    assert arithmetic.same_value("10 / 3", "3.3333333333333335")
    assert not arithmetic.same_value("1", "2")
    assert not arithmetic.same_value("x", "x")
    assert not arithmetic.same_value("1 / 0", "1 / 0")
