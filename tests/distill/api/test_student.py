"""A student in memory: exported, loaded and asked."""

import pytest

import distill
from tests.distill.api.written import sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_an_exported_folder_answers_the_same(trained, tmp_path):
    folder = trained.export(tmp_path / "hf")
    loaded = distill.load(folder)
    assert (loaded.description.form, loaded.description.label_prefix) == ("label", "[label] ")
    inputs = [row["question"] for row in sums(5)]
    for ours, theirs in zip(trained.answer(inputs, rationale=True), loaded.answer(inputs, rationale=True)):
        assert (ours.text, ours.rationale) == (theirs.text, theirs.rationale)
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        distill.load(tmp_path / "absent")


def test_inputs_are_checked(trained):
    with pytest.raises(ValueError, match=r"inputs\[1\] must be a text that is not empty; got ' '"):
        trained.answer(["1?", " "])
    with pytest.raises(ValueError, match=r"inputs\[0\]: no text in field 'question'"):
        trained.answer([{"text": "1?"}])
    assert trained.answer([]) == []
