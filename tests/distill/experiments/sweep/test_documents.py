"""YAML and JSON as values with lines."""

import pytest

from distill.experiments.sweep import SweepError, documents

# Expands tenfold with each line.
ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join(10 * [f'*a{n - 1}'])}]\n" for n in range(1, 9))


def test_numbers_and_texts(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: [1, 1e-3, -.5, .inf, 3:1, no, true, null, 2020-01-01, '1', 0x1]\n")
    value, lines = documents.read(path)
    assert value == {"a": [1, 0.001, -0.5, float("inf"), "3:1", "no", True, None, "2020-01-01", "1", "0x1"]}
    assert lines[("a", "3")] == 1


def test_lines_of_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{\n\t"a": {\n\t\t"b": [1,\n2]}}')
    value, lines = documents.read(path)
    assert value == {"a": {"b": [1, 2]}}
    assert (lines[("a",)], lines[("a", "b")], lines[("a", "b", "1")]) == (2, 3, 4)


def test_json_that_yaml_does_not_read_has_no_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": "\x7f"}')
    assert documents.read(path) == ({"a": "\x7f"}, {})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"a": 1, "a": 2}', "'a' is given twice"),
        ("a.json", '{"a": 1, "a": "\x7f"}', "is not JSON: 'a' is given twice"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        (
            "a.json",
            '{"axes":\n{"RANDOM_SEED": [' + 400 * "1" + "]}}",
            "a.json:2: integers must fit into 64 bits; got one of 400 digits",
        ),
        ("a.yaml", f"a: {-(2**63) - 1}", "a.yaml:1: integers must fit into 64 bits"),
        ("a.json", "{a: 1}", "is not JSON: "),
        ("a.yaml", "a: &x !!python/object:os.system {}", "is not YAML: "),
        ("a.yaml", "\xff".encode("latin-1"), "is not YAML: 'utf-8' codec"),
        ("a.yaml", ALIASES, "a.yaml:2: the alias *a0 refers to a list or mapping; write it out"),
        ("a.yaml", "a: &x [*x]", "a.yaml:1: the alias *x refers to a list or mapping; write it out"),
        ("a.yaml", "a: " + "[" * 400 + "]" * 400, "nested too deeply"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SweepError, match=r"a\.(json|yaml)") as error:
        documents.read(path)
    assert message in str(error.value) and "\n" not in str(error.value)
