"""A student in memory: exported, loaded and asked."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest

import distill
from distill.inference import answering
from distill.inference.decoder import Decoder
from tests.distill.api.written import FIELDS, sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_exports_that_are_not_loaded_are_named(tmp_path):
    forms = {
        "CTranslate2 (format='ct2')": ("config.json", "model.bin", "shared_vocabulary.json"),
        "T5X (format='t5x')": ("checkpoint_2",),
    }
    for form, names in forms.items():
        folder = tmp_path / form[:3]
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")
        wanted = re.escape(
            f"{folder} is a student for {form}, which distill.load does not read; load the model directory"
        )
        with pytest.raises(ValueError, match=wanted):
            distill.load(folder)


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


def test_a_student_of_a_run_that_is_not_complete_has_a_warning(trained, model_dir, caplog):
    distill.load(trained.directory)
    assert not caplog.messages
    pathlib.Path(model_dir, "config.gin").touch()
    distill.load(model_dir)
    assert [text for text in caplog.messages if text.startswith(f"the run in {model_dir} is not complete")]


def test_int8_weights_answer_and_leave_the_parameters_as_they_are(trained):
    decode = dataclasses.replace(trained.description.decode, weights="int8")
    loaded = distill.load(trained.directory, decode=decode)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(loaded.params)} == {"float32"}
    assert {"int8", "float32"} <= {str(leaf.dtype) for leaf in jax.tree.leaves(loaded._answering._params)}
    inputs = [row["question"] for row in sums(3)]
    ours, theirs = trained.answer(inputs), loaded.answer(inputs)
    assert [one.score for one in ours] != [one.score for one in theirs]
    for one, other in zip(ours, theirs):
        assert one.score == pytest.approx(other.score, rel=0.1)


def test_rationales_are_decoded_as_given(trained):
    decode = dataclasses.replace(trained.description.decode, max_decode_len=12)
    short = distill.load(trained.directory, rationale_decode=decode)
    inputs = [row["question"] for row in sums(2)]
    for own, other in zip(short.answer(inputs, rationale=True), trained.answer(inputs, rationale=True)):
        assert (own.text, own.score) == (other.text, other.score)
        assert 0 < len(own.rationale.encode()) <= 12 < len(other.rationale.encode())  # one byte a token
        assert other.rationale.startswith(own.rationale)
    with pytest.raises(TypeError, match=r"^rationale_decode must be .*DecodeConfig.*; got 3 \(int\)"):
        distill.load(trained.directory, rationale_decode=3)


def test_inputs_are_checked(trained):
    with pytest.raises(ValueError, match=r"inputs\[1\] must be a text that is not empty, or a row; got ' '"):
        trained.answer(["1?", " "])
    with pytest.raises(ValueError, match=r"inputs\[0\]: field 'question' is absent"):
        trained.answer([{"text": "1?"}])
    with pytest.raises(ValueError, match=r"inputs\[1\] holds half of a surrogate pair"):
        trained.answer(["1?", "\ud800"])
    file = pathlib.Path(trained.directory) / "rows" / "train.jsonl"
    with pytest.raises(ValueError, match=r"got the name of a file, '.*train\.jsonl': give its rows"):
        trained.answer(str(file))
    assert trained.answer(distill.read(sums(2), fields=FIELDS)) == trained.answer(sums(2))
    with pytest.raises(TypeError, match=r"^rows must be a path, paths, or an iterable of dicts .*; got dict"):
        distill.evaluate(trained, sums(1)[0])
    with pytest.raises(FileNotFoundError, match="is a file; expected a directory"):
        distill.load(file)
    assert trained.answer([]) == []


def test_inputs_longer_than_those_of_the_training_are_warned_of(trained, caplog):
    assert trained.description.trained_input_len == 64
    decode = dataclasses.replace(trained.description.decode, max_input_len=96)
    distill.load(trained.directory, decode=decode).answer(["1 and 2?", "1 and 2?" * 9])
    (text,) = [text for text in caplog.messages if "that training read" in text]
    assert text.startswith(
        "1 input has more than 64 tokens, the most that training read of an input; the longest has 81. "
    )
    assert "truncate as training did with student = distill.load(" in text and "max_input_len=64)), or" in text
    assert text.endswith("or train with longer inputs (lengths)")


def test_answers_that_are_cut_or_empty_are_warned_of_in_words_of_python(trained, caplog, monkeypatch):
    real = Decoder.__call__

    def made(self, *given):
        full, empty, cut = (dataclasses.replace(one, cut=False) for one in real(self, *given))
        return [full, dataclasses.replace(empty, tokens=empty.tokens[:0]), dataclasses.replace(cut, cut=True)]

    monkeypatch.setattr(Decoder, "__call__", made)
    trained.answer([row["question"] for row in sums(3)])
    load = f"student = distill.load({trained.directory!r}, decode=dataclasses.replace(student.description.decode, "
    assert caplog.messages == answering.remarks(1, 1, f"{load}max_decode_len=N))")


def test_answers_are_chosen(trained):
    rows = sums(3)
    same = trained.answer(rows, choices=["1", "2", "3"])
    assert {one.text for one in same} <= {"1", "2", "3"} and all(len(one.probabilities) == 3 for one in same)
    own = trained.answer(rows, choices=[["1", "2"], ("4", "5"), ["7", "8", "9"]], rationale=True)
    assert own[2].text in "789" and len(own[2].probabilities) == 3 and own[2].rationale is not None
    assert own[1].text in ("4", "5")
    one, other = trained.answer(["1 and 2?"], choices=["3", "4"])[0], trained.answer(["1 and 2?"])[0]
    assert other.probabilities is None
    if other.text in ("3", "4"):
        assert one.score == pytest.approx(other.score, abs=1e-4)
    with pytest.raises(ValueError, match="one list for each input; got 1 list for 3 inputs"):
        trained.answer(rows, choices=[["1", "2"]])
    assert trained.answer(rows, choices=[1, np.int64(2), 3]) == same
    assert trained.answer(rows, choices=[[1, "2"], (4, 5), [7, 8, 9]], rationale=True) == own
    with pytest.raises(TypeError, match=r"^choices must be a list of texts or numbers .*; got 'yes' \(str\)"):
        trained.answer(rows, choices="yes")
    with pytest.raises(TypeError, match=r"^choices must be .*; got a list, and 'yes' as choices\[1\]"):
        trained.answer(rows, choices=[["yes", "no"], "yes"])
    with pytest.raises(ValueError, match=r"^choices\[1\] is null; expected a text or a number"):
        trained.answer(rows, choices=["yes", None])
    with pytest.raises(ValueError, match=r"^choices\[1\]\[0\] is not text but list"):
        trained.answer(rows, choices=[["1", "2"], [["yes"], "no"], ["1", "2"]])
    with pytest.raises(ValueError, match=r"inputs\[0\]: there must be two different choices or more; got \['1', '1'\]"):
        trained.answer(rows, choices=["1", "1"])
    with pytest.raises(ValueError, match=r"inputs\[1\] has no choices"):
        trained.answer(rows, choices=[["1", "2"], [], ["1", "2"]])
    with pytest.raises(ValueError, match=r"inputs\[0\]: there must be two different choices or more; got \['1'\]"):
        trained.answer(rows, choices=[["1"], ["1", "2"], ["1", "2"]])


def test_a_student_that_chooses_takes_the_rows_own_choices(trained):
    decode = dataclasses.replace(trained.description.decode, answers="choose")
    student = distill.load(trained.directory, decode=decode)
    rows = [{**row, "choices": [row["answer"], "none"]} for row in sums(3)]
    assert all(one.text in (row["answer"], "none") for row, one in zip(rows, student.answer(rows)))
    assert distill.evaluate(student, rows, fields=FIELDS)["accuracy"] == sum(
        one.text == row["answer"] for row, one in zip(rows, student.answer(rows))
    ) / len(rows)
    with pytest.raises(ValueError, match=r"inputs\[0\] has no choices; give choices="):
        student.answer(["1 and 2?"])
    with pytest.raises(ValueError, match="'choose' reads float weights"):
        dataclasses.replace(decode, weights="int8")
