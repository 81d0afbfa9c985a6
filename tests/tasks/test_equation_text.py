"""Arithmetic as teachers write it, in plain operators."""

import pytest

from distill.tasks import arithmetic
from distill.tasks.equation_text import clean_equation, expression_of, plain_equation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("((8 figures + 10 cabinets) * 4 shelves).", "((8 + 10) * 4)"),
        ("$1,250 + 3,000,000", "1250 + 3000000"),
        ("12,50", "12,50"),  # no thousands separator
        ("5 × 3 ÷ [2 − 1]", "5 * 3 / (2 - 1)"),
        ("7 and 8", "7 and 8"),  # a junction is no unit
        ("7 million people", "7 million people"),  # nor is a number
        ("3 + 4\nmore text 5", "3 + 4"),
        ("", ""),
    ],
)
def test_units_separators_and_signs_are_cleaned(text, expected):
    assert clean_equation(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$\\boxed{\\frac{40 + 15}{5}}$ plums.", "(40 + 15)/(5)"),
        ("**2 x 5 + 1 = 11**", "2 * 5 + 1 = 11"),
        ("\\[ 3 \\times \\left( 4 + 1 \\right) \\]", "3 * ( 4 + 1 )"),
        ("The sum:\n4^2", "4**2"),
        ("(3 + 4 = 7)", "3 + 4 = 7"),
        ("(40 + 15)", "(40 + 15)"),
        ("6 \\text{ apples} \\div 2", "6 / 2"),
        ("no digits at all", ""),
        ("1" * (4 * arithmetic.MAX_LENGTH + 1), ""),
    ],
)
def test_markdown_and_latex_become_plain_operators(text, expected):
    assert plain_equation(text) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("(40 + 15) / 5", "(40 + 15) / 5"),
        ("(40 + 15) / 5 = 11", "(40 + 15) / 5"),
        ("Total = 55 / 5 = 11", "55 / 5"),
        ("\\boxed{11}", "11"),
    ],
)
def test_the_expression_of_an_answer(answer, expected):
    assert expression_of(answer) == (expected, "")
    assert arithmetic.same_value(expected, "11")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("55 / 5 = 12", "the two sides of '=' have different values"),
        ("(25 + x)", "the answer is not arithmetic"),
        ("eleven plums", "the answer is not arithmetic"),
        ("1 / 0", "the answer is not arithmetic"),
        ("$5 million", "the answer is not arithmetic"),
        ("(3 + 2) dozen eggs.", "the answer is not arithmetic"),
    ],
)
def test_answers_without_a_value_have_a_reason(answer, reason):
    assert expression_of(answer) == (None, reason)
