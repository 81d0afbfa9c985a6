"""Aliases that expand a small file are refused; tests/distill/teacher/test_templates.py tries a bomb."""

import pytest
import yaml

from distill import yaml_loading


def read(text):
    return yaml_loading.Loader(text).get_single_data()


def test_an_alias_of_a_text_or_number_is_its_value():
    assert read("{a: &x word, b: *x, c: &y 3, d: [*y, *y]}") == {"a": "word", "b": "word", "c": 3, "d": [3, 3]}


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x", "a: &x {b: 1}\nc: {<<: *x}", "a: &x [*x]", "a: &x {b: [*x]}"])
def test_an_alias_of_a_list_or_mapping_is_refused(text):
    with pytest.raises(yaml.YAMLError, match=r"the alias \*x refers to a list or mapping; write it out"):
        read(text)


def test_an_alias_of_nothing_is_named_as_such():
    with pytest.raises(yaml.YAMLError, match="undefined alias"):
        read("a: *x")
