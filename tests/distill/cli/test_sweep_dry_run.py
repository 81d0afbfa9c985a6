"""``distill sweep --dry_run``; test_sweeps.py runs the command."""

from distill.cli import sweep_dry_run
from distill.experiments.sweep import reading


def test_a_dry_run_leaves_no_vocabulary(tmp_path):
    where = tmp_path / "deep" / "out"
    source = {"axes": {"RANDOM_SEED": [0]}, "directory": str(where), "start": "demo_vocabulary"}
    demo_sweep = reading.from_document(source, {}, tmp_path / "a.yaml")
    with sweep_dry_run._vocabulary_for_checks(demo_sweep):
        assert (where / "vocabulary.model").exists()
    assert not where.parent.exists()
    where.mkdir(parents=True)
    (where / "sweep.json").write_text("{}")
    (where / "vocabulary.model").write_bytes(b"of a sweep that has begun")
    with sweep_dry_run._vocabulary_for_checks(demo_sweep):
        pass
    assert (where / "vocabulary.model").read_bytes() == b"of a sweep that has begun"
