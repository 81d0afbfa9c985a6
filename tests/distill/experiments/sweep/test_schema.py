"""The keys of sweep files: the reader refuses others, and their description holds them all."""

import pytest

from distill.experiments.sweep import SweepError, reading, schema


def test_every_key_has_a_type_and_a_meaning():
    parts = (schema.FILE, schema.AXIS, schema.LEVEL, schema.DESIGN, schema.SEARCH, schema.START)
    for part in parts:
        for name, key in part.items():
            assert key.text and schema.type_names(key.types), name
    assert max(map(len, schema.described().splitlines())) <= 112


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes: {A: [1]}\nmetrics: f1", r"unknown key 'metrics'.*did you mean 'metric'"),
        ("axes: {A: {values: [1], step: 2}}", r"axis 'A' unknown key 'step'"),
        ("axes: {A: [1]}\njoint_seeds: 1", "'joint_seeds' must be true or false; got 1"),
        ("axes: {A: {low: a, high: 2}}", "'low' must be a number; got 'a'"),
    ],
)
def test_the_reader_checks_files_against_it(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SweepError, match=message):
        reading.read(tmp_path / "s.yaml", "out")
