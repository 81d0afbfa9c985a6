"""Sweep files: what they may contain, the place that an error names, and the files that ship."""

import json
import pathlib

import pytest

from distill.api import statement_checks
from distill.experiments.sweep import SweepError, reading

ROOT = pathlib.Path(__file__).resolve().parents[4]
SHIPPED = sorted(path for path in (ROOT / "gin" / "sweeps").iterdir())


def read(tmp_path, text, suffix=".yaml"):
    (tmp_path / f"s{suffix}").write_text(text)
    return reading.read(tmp_path / f"s{suffix}", tmp_path / "out")


def test_yaml_and_json_are_read_alike(tmp_path):
    text = "axes:\n  LEARNING_RATE: [1e-3, 3e-3]\n  method: {a: {bindings: {FORM: no}}, '2': {}}\n"
    text += "bindings: {X: null, Y: true}\n"
    content = {
        "axes": {"LEARNING_RATE": [1e-3, 3e-3], "method": {"a": {"bindings": {"FORM": "no"}}, "2": {}}},
        "bindings": {"X": None, "Y": True},
    }
    yaml, plain = read(tmp_path, text), read(tmp_path, json.dumps(content), ".json")
    assert yaml == plain
    assert yaml.axes["LEARNING_RATE"][0].number == 0.001
    assert [level.number for level in yaml.axes["method"]] == [None, 2.0]
    assert yaml.bindings == ("X = None", "Y = True")


def test_ratios_set_both_rates_in_the_order_of_the_file(tmp_path):
    levels = read(tmp_path, "axes:\n  rates: {ratio: [8:1, 1:4, 2]}").axes["rates"]
    assert [(level.name, level.number) for level in levels] == [("8:1", 8.0), ("1:4", 0.25), ("2:1", 2.0)]
    assert levels[1].bindings == ("LABEL_RATE = 1.0", "RATIONALE_RATE = 4.0")


def test_a_range_in_a_grid_and_conditional_axes(tmp_path):
    sweep = read(
        tmp_path,
        "axes:\n"
        "  form: {paired: {}, mixed: {}, label: {}}\n"
        "  LAMBDA: {low: 0.1, high: 10, points: 3, log: true, when: {form: [paired, mixed]}}\n"
        "  rates: {ratio: ['1:1', '4:1'], when: {form: mixed}}\n",
    )
    assert [level.number for level in sweep.axes["LAMBDA"]] == [0.1, 1.0, 10.0]
    names = [run.name for run in sweep.runs()]
    assert len(names) == 3 + 3 * 2 + 1
    assert names[-1] == "form-label"
    assert "form-paired__LAMBDA-1.0" in names and "form-mixed__LAMBDA-1.0__rates-4_1" in names
    assert sweep.runs()[0].numbers == {"LAMBDA": 0.1}
    assert set(sweep.log_axes) == {"LAMBDA", "rates"}


def test_a_start_is_a_run_before_the_others(tmp_path):
    sweep = read(tmp_path, "axes: {A: [1]}\nstart: {gin_files: [a.gin], bindings: {B: 2}}")
    assert sweep.start_run().bindings[0] == "B = 2"
    assert sweep.runs()[0].bindings[0] == f"INITIAL_CHECKPOINT_PATH = {str(tmp_path / 'out' / 'pretraining')!r}"
    alone = read(tmp_path, "axes: {A: [1]}\nstart: demo_vocabulary")
    assert alone.start_run() is None
    assert alone.runs()[0].bindings[0] == f"VOCABULARY_PATH = {str(tmp_path / 'out' / 'vocabulary.model')!r}"


BAD = [
    ("axes: {A: [1, 2]\n", "is not YAML: "),
    ("axes:\n  A: [1]\n  A: [2]\n", ":3 is not YAML: 'A' is given twice"),
    ("axes:\n  A: [1, 2, 1]\n", ":2: axis 'A' has the level '1' twice; delete one"),
    ("axes:\n  A:\n  - 3\n  - 2\n  - 3.0\n", ":5: axis 'A' has the level '3' twice, as 3 and 3.0; delete one"),
    ("axes:\n  A:\n    values:\n    - 1\n    - 2\n    - 1\n", ":6: axis 'A' has the level '1' twice; delete one"),
    ("axes:\n  r: {ratio: [2, '2:1']}\n", ":2: axis 'r' has the level '2:1' twice, as 2 and '2:1'; delete one"),
    ("axes:\n  r: {ratio: ['1:4', 0.25]}\n", ":2: axis 'r' has the level '1:4' twice, as '1:4' and 0.25; delete one"),
    ("axes:\n  r: {ratio: ['1:3', '2:6']}\n", ":2: axis 'r' has the level '1:3' twice, as '1:3' and '2:6'; delete one"),
    ("axes:\n  r:\n    ratio:\n    - 9:1\n    - 2\n    - 1:4\n    - 2:1\n", ":7: axis 'r' has the level '2:1' twice"),
    (
        "axes:\n  A: 0.3\n",
        ":2: axis 'A' must be a list of values or an object of levels, not empty; got 0.3; write [0.3]",
    ),
    ("axes:\n  A: []\n", ":2: axis 'A' must be a list of values or an object of levels, not empty; got []"),
    ("axes:\n  B: [1]\n  A:\n    low: 1\n    hgih: 2\n", r":5: axis 'A' unknown key 'hgih'"),
    ("axes:\n  A: {low: 1, high: x}\n", ":2: axis 'A' 'high' must be a number; got 'x'"),
    ("axes:\n  A: {low: 1, high: 2}\n", ":2: axis 'A' needs 'points' in a grid"),
    ("axes:\n  A: {low: 2, high: 1, points: 3}\n", ":2: axis 'A' needs low < high; got 2 and 1"),
    ("axes:\n  A: {low: 0, high: 1, log: true}\n", ":2: axis 'A', 'low' must be > 0 with 'log'; got 0"),
    (
        "axes:\n  r:\n    ratio: [1, -1]\n",
        ":3: axis 'r', 'ratio', value number 2 must be a positive number, or 'A:B' of two; got -1",
    ),
    (
        "axes:\n  r:\n    ratio: ['0:1']\n",
        ":3: axis 'r', 'ratio', value number 1 must be a positive number, or 'A:B' of two; got '0:1'",
    ),
    ("axes:\n  A: {values: [1], when: {B: x}}\n", "axis 'A', 'when' names 'B', which is not another axis"),
    ("axes:\n  B: [1]\n  A: {values: [1], when: {B: 2}}\n", "names the level '2' of axis 'B'; its levels are 1"),
    (
        "axes:\n  A: {values: [1], when: {B: 1}}\n  B: {values: [1], when: {A: 1}}\n",
        "axis 'A', 'when' depends on itself",
    ),
    ("axes: {A: [1]}\ndesign: sobel\n", ":2: 'design' must be one of grid, random, sobol, latin_hypercube, optuna"),
    ("axes: {A: [1]}\ndesign: {kind: random}\n", "'design' needs 'points', a whole number ≥ 1; got None"),
    ("axes: {A: [1]}\ndesign: {kind: sobol, points: 6}\n", "'design', 'points' must be a power of 2"),
    ("axes: {A: [1]}\ndesign: {kind: optuna, trials: 3, sampler: tpo}\n", "must be one of tpe, gp, random; got 'tpo'"),
    ("axes: {A: [1]}\nstart: dmeo\n", ":2: 'start' must be 'demo' or 'demo_vocabulary', or an object"),
    ("axes: {A: [1]}\nbindngs: {}\n", "unknown key 'bindngs'; the keys are "),
    ("axes: {A: [1]}\nbindngs: {}\n", ":2: unknown key 'bindngs'"),
    ("axes: {A: [1]}\nbindngs: {}\n", "did you mean 'bindings'?"),
    ("axes:\n  A: {lo: 1, high: 2}\n", "did you mean 'low'?"),
    (
        "axes: {A: [1]}\ndesign: randm\n",
        "sobol, latin_hypercube, optuna; got 'randm'; did you mean 'random'?",
    ),
    (
        "axes: {A: [1, 2\nx: A\n",
        ":2 is not YAML: expected ',' or ']', but got ':' while parsing a flow sequence that begins in line 1",
    ),
    ("axes: {b: {budget: [steps]}}\n", "axis 'b' needs 'reference'"),
    ("axes: {RANDOM_SEED: {low: 0, high: 9, int: true}}\n", "axis 'RANDOM_SEED' must be a list"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_an_error_names_the_file_the_line_and_the_place(tmp_path, text, message):
    with pytest.raises(SweepError) as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "s.yaml"))
    assert "\n" not in str(error.value)


def test_a_bucket_is_refused_as_a_directory(tmp_path):
    (tmp_path / "s.yaml").write_text("axes: {A: [1]}")
    with pytest.raises(SweepError, match=r"must be on a file system.*mount the bucket"):
        reading.read(tmp_path / "s.yaml", "gs://bucket/sweep")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_macros_of_a_shipped_sweep_are_used(path, tmp_path):
    """Every kind of run that ships resolves: no misspelt, missing or required macro."""
    sweep = reading.read(path, tmp_path)
    given = ("DATA_DIR = 'data'", "VOCABULARY_PATH = 'bytes'")
    kinds = {}
    for run in sweep.runs() if sweep.search is None else []:
        kinds.setdefault((run.gin_files, tuple(text.partition(" = ")[0] for text in run.bindings)), run)
    for run in [*kinds.values(), *filter(None, [sweep.start_run()])]:
        bindings = [text for text in run.bindings if "dataset." not in text]
        wanted = statement_checks.unset(("DATA_DIR", "VOCABULARY_PATH"), run.gin_files, bindings)
        more = [text for text in given if text.partition(" = ")[0] in wanted]
        statement_checks.check_statements(run.gin_files, [*more, *bindings])
    assert kinds or sweep.search is not None
