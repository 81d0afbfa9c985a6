"""Statements are read with their places; nothing is imported, called or bound."""

import sys

import gin
import pytest

from distill.api import statements
from distill.api.gin_files import ConfigurationError


def scanned(text, where="a.gin"):
    scan = statements.Scan()
    statements.scan_text(text, where, [""], scan, set())
    return scan


def test_macros_are_noted_with_their_places():
    scan = scanned("A = 1\nB = %gin.REQUIRED\nf.x = [%A, {'k': %C}]\n")
    assert scan.defined == {"A": ["a.gin:1"], "B": ["a.gin:2"]}
    assert scan.required == {"B": "a.gin:2"}
    assert scan.referenced["A"] == scan.referenced["C"] == ["a.gin:3"]
    assert scan.bound == {"f.x": "a.gin:3"}


def test_included_files_are_read_once_and_in_their_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.gin").write_text("A = 2\n")
    scan = scanned("A = 1\ninclude 'b.gin'\n")
    assert scan.defined == {"A": ["a.gin:1", "b.gin:1"]}
    assert scan.texts == {"b.gin": "A = 2\n"}


def test_nothing_is_imported_or_bound():
    gin.clear_config()
    scan = scanned("from __gin__ import dynamic_registration\nimport antigravity\nA = @antigravity.fly()\n")
    assert "antigravity" not in sys.modules
    assert [use.selector for use in scan.uses] == ["antigravity.fly"] and scan.uses[0].called
    assert not gin.config._CONFIG


@pytest.mark.parametrize(
    ("binding", "read"),
    [("A=1", "A = 1"), ("A = runs/a-b", "A = 'runs/a-b'"), ("A=@f()", "A = @f()"), ("A='x y'", "A = 'x y'")],
)
def test_bare_words_are_texts(binding, read):
    assert statements.readable(binding) == read


def test_a_binding_needs_a_value():
    with pytest.raises(ConfigurationError, match="a binding reads NAME=value; got 'MODEL_DIR'"):
        statements.readable("MODEL_DIR")


def test_a_binding_that_cannot_be_read_is_shown():
    text = "A = 1\nLABEL_RATE = 50%\nB = 2"
    with pytest.raises(
        ConfigurationError, match=r"^the command line: '--gin\.LABEL_RATE=50%' has no gin value: .*quotes"
    ):
        scanned(text, statements.COMMAND_LINE)
    with pytest.raises(ConfigurationError, match=r"^a\.gin:2: 'LABEL_RATE = 50%' has"):
        scanned(text, "a.gin")


@pytest.mark.parametrize("text", ["\\\n", "\\\n\\\n", "(", "'a"])
def test_a_file_that_ends_in_a_statement_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"^runs/a\.gin(:1)?: "):
        statements.scan_text(text, "runs/a.gin", [], statements.Scan(), set())
    with pytest.raises(ConfigurationError, match=r"^runs/a\.gin(:1)?: "):
        statements.bindings_of(text, "runs/a.gin")


def test_a_key_that_python_refuses_is_an_error_of_its_binding():
    with pytest.raises(ConfigurationError) as caught:
        scanned("FILES = {[1]: 2}", statements.COMMAND_LINE)
    assert (
        str(caught.value) == "the command line: '--gin.FILES={[1]: 2}' has no gin value: unhashable type: 'list'; "
        "a key of a dict must be a text or a number"
    )


def test_bindings_of_a_resolved_configuration():
    found = statements.bindings_of("A = 1\ns/f.x = %A\nf.y = @g()\n")
    assert found == {"A": 1, "s/f.x": "%A", "f.y": "@g()"}
    with pytest.raises(ConfigurationError, match=r"^here:1: "):
        statements.bindings_of("A = [", "here")


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("FILES = [1", " has no gin value: the bracket '[' is not closed; a shell needs quotes"),
        ("FILES = {'a': (1}", "the bracket '(' is closed by '}'"),
        ("FILES = 1)", "the bracket ')' closes nothing"),
        ("FILES = 'x", "the quote ' is not closed"),
        ("FILES = 1 2", "something follows the value; expected one value: a plain number, a text in quotes or a list"),
        ("FILES = 10,000", "something follows the value; expected one value: a plain number"),
        ("FILES = ten words!", "ten is no number and no name that gin knows; a text needs quotes: "),
        ("FILES = {'a': a.jsonl}", "a is no number and no name that gin knows; a text needs quotes: 'a.jsonl'"),
        ("FILES = ['a' 5]", "Expected ',' or ']': commas separate items, and texts need quotes"),
        ("FILES = {'a'; 5}", "Expected ':': a dict is written {'NAME': VALUE}"),
        ("FILES = [a]", "a is no number and no name that gin knows; a text needs quotes: 'a'"),
    ],
)
def test_a_value_that_gin_cannot_read_is_one_line(tmp_path, binding, message):
    with pytest.raises(ConfigurationError) as caught:
        scanned(binding, statements.COMMAND_LINE)
    flag = repr(f"--gin.{binding.replace(' = ', '=')}")
    assert str(caught.value).startswith(f"the command line: {flag} has") and message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        scanned(f"A = 1  # [\n{binding}\nB = 2\n")
    assert str(caught.value).startswith("a.gin:2: ") and message.partition(";")[0] in str(caught.value)
