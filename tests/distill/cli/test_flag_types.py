"""The values of flags."""

import argparse
import json
import re

import pytest

from distill.cli import flag_types, parser
from distill.tasks import row_fields
from distill.tasks.records import RowError


def test_numbers_and_parts():
    assert [flag_types.positive("1"), flag_types.not_negative("0"), flag_types.positive("007")] == [1, 0, 7]
    assert flag_types.shard("2/4") == (2, 4)


def test_a_minus_is_standard_input():
    assert [flag_types.input_file("-"), flag_types.input_file("a-")] == ["/dev/stdin", "a-"]
    given = parser.of_command("infer").parse_args(["--input=-", "--output=-"])
    assert (given.input, given.output) == ("/dev/stdin", "-")


@pytest.mark.parametrize("text", ["0", "-1", "1.0", "1e3", " 1", "", "٣", "nan"])
def test_a_whole_number_is_digits_alone(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a whole number ≥ 1; got "):
        flag_types.positive(text)
    if text != "0":
        with pytest.raises(argparse.ArgumentTypeError, match=r"must be a whole number ≥ 0; got "):
            flag_types.not_negative(text)


def test_an_address_has_a_host_and_a_port():
    for text in ("10.0.0.1:8476", "first:1", "a.b-c.internal:65535", "[fd00::1]:8476"):
        assert flag_types.host_and_port(text) == text


@pytest.mark.parametrize(
    "text", ["", "first", "first:", ":8476", "first:0", "first:65536", "first:a", "fd00::1:8476", "a b:1"]
)
def test_an_address_without_a_usable_port_is_refused(text):
    with pytest.raises(
        argparse.ArgumentTypeError, match=r"must be HOST:PORT with a port from 1 to 65535, such as .*; got "
    ):
        flag_types.host_and_port(text)


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "2/", "a/b", "-1/4", "1/4/4", "1/1234567890"])
def test_a_part_is_within_the_whole(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be I/N with 1 ≤ I ≤ N, such as 2/4; got "):
        flag_types.shard(text)


@pytest.mark.parametrize(
    "text", ["", "[", "[]", '["yes"]', '["1", 1]', '["yes", "yes"]', '["yes", " "]', '{"a": "b"}', '"yes"', "[NaN, 1]"]
)
def test_choices_are_a_field_or_different_texts(text):
    assert flag_types.choices("options") == "options" and flag_types.choices('["yes", "no"]') == ["yes", "no"]
    with pytest.raises(argparse.ArgumentTypeError, match="must be a field, or a list of two or more different texts"):
        flag_types.choices(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('["a",', "this is not valid JSON, at its end: Expecting value"),
        ("['a', 'b']", "this is not valid JSON, at character 2: Expecting value"),
        ('["a" "b"]', "this is not valid JSON, at character 6: Expecting ',' delimiter"),
        ('["a"]', "choices has 1 text"),
        ('["1", 1]', "choices[0] and choices[1] are the same text, '1'"),
        ('["a", " "]', "choices[1] is blank"),
        ("[" * 9999, "this is no list of texts and numbers"),
    ],
)
def test_what_is_wrong_with_a_list_of_choices_is_said(text, why):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        flag_types.choices(text)
    assert str(error.value).endswith(f": {why}") and """such as '["yes", "no"]'; got""" in str(error.value)


@pytest.mark.parametrize("value", [[1, 2], [0.5, "half"], [True, False], ["a", None], ["a", ["b"]]])
def test_choices_of_a_flag_are_read_as_those_of_a_row(value):
    try:
        expected = list(row_fields.choices_of(value)[0])
    except RowError as error:
        with pytest.raises(argparse.ArgumentTypeError, match=re.escape(f"got {json.dumps(value)!r}: {error}")):
            flag_types.choices(json.dumps(value))
    else:
        assert flag_types.choices(json.dumps(value)) == expected
