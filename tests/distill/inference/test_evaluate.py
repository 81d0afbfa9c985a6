"""A trained student is scored again, and by other tasks; what cannot be evaluated is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from distill.inference import answering, evaluate, infer
from distill.inference import student as students
from distill.inference.decoder import DecodeConfig, Prediction
from distill.sharding import partitioning
from distill.tasks import jsonl, plain_vocabularies, registration
from distill.terminal import Terminal
from distill.training import train
from tests_support import read_lines, write_lines

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
DECODE = DecodeConfig(max_decode_len=4, max_input_len=32, batch_size=8)
BYTES = plain_vocabularies.Bytes(125)


def test_evaluation_of_a_trained_student(tmp_path, arguments, sums, capsys, caplog, monkeypatch):
    model_dir = str(tmp_path / "run")
    train.train(model_dir, **arguments)
    student = {"model": arguments["model"], "mesh": arguments["mesh"]}
    score = evaluate.Evaluator.__call__

    def counted(evaluator, params):
        return dataclasses.replace(score(evaluator, params), cut=2, empty=1)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate.Evaluator, "__call__", counted)
        again = evaluate.evaluate(model_dir, task_name=sums.label, decode=DECODE, terminal=Terminal(), **student)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert again.metrics == result["test"]
    stem = tmp_path / "run" / "predictions" / f"{sums.label}_test"
    written = json.loads(stem.with_suffix(".metrics.json").read_text())
    settings = written.pop("settings")
    assert written == again.metrics and settings == again.settings
    assert {"task": sums.label, "split": "test", "step": result["best_step"]}.items() <= settings.items()
    assert settings["decode"]["max_decode_len"] == 4 and settings["examples"] == len(again.rows)
    place = f"the student of step {result['best_step']}; its predictions are in {stem}.jsonl, the metrics in "
    assert place in capsys.readouterr().err
    assert not [text for text in caplog.messages if "that training read" in text]
    remarks = answering.remarks(2, 1, "--gin.MAX_DECODE_LEN=N", "prediction")
    assert remarks and [text for text in caplog.messages if text in remarks] == remarks
    students.write(model_dir, students.Student(arguments["model"], "bytes", 125, trained_input_len=15), None)
    assert not [text for text in caplog.messages if "is not complete" in text]
    (tmp_path / "run" / "result.json").unlink()
    longer = DecodeConfig(max_decode_len=32, max_input_len=32, batch_size=8)
    rationales = evaluate.evaluate(model_dir, task_name=sums.rationale, split="validation", decode=longer, **student)
    assert {"rouge_l", "bleu"} <= set(rationales.metrics)
    assert [text for text in caplog.messages if text.startswith(f"the run in {model_dir} is not complete")]
    assert [text for text in caplog.messages if "more than 15 tokens, the most that training read of an input" in text]


def test_a_mixture_cannot_be_evaluated(model_dir, arguments, sums):
    with pytest.raises(ValueError, match="cannot be evaluated"):
        evaluate.evaluate(model_dir, model=arguments["model"], task_name=sums.mixed, mesh=arguments["mesh"])
    with pytest.raises(ValueError, match="sums_label"):
        registration.get("sums_lable")


@pytest.fixture
def colours(tmp_path):
    """The registered names of a data set with choices, of which the last row has a label in capitals."""
    rows = [
        {"input": f"{n}?", "label": ["red", "blue"][n % 2], "choices": ["red", "blue", "green"], "rationale": f"{n}."}
        for n in range(7)
    ]
    write_lines(tmp_path / "rows.jsonl", [*rows, {**rows[0], "label": "Red."}])
    files = dict.fromkeys(("train", "validation", "test"), tmp_path / "rows.jsonl")
    return registration.register(jsonl.dataset(files, name="colours", answer="choice"), "bytes")


def test_answers_are_chosen_by_their_probability(tmp_path, model_dir, colours):
    student = {"model": students.read(model_dir).model, "mesh": partitioning.MeshConfig(1, 1, 1)}
    decode = dataclasses.replace(DECODE, answers="choose", batch_size=3)
    other = {"task_name": colours.label, "output_dir": str(tmp_path), "max_examples": 3, **student}
    evaluate.evaluate(model_dir, decode=DECODE, **other)
    found = evaluate.evaluate(model_dir, decode=decode, **{**other, "max_examples": None})
    evaluate.evaluate(model_dir, decode=decode, **other)
    names = ["colours_label_chosen_test", "colours_label_chosen_test_first_3", "colours_label_test_first_3"]
    assert sorted(path.stem for path in tmp_path.glob("colours_*.jsonl")) == names
    infer.infer(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", model_dir=model_dir, choices=["red", "blue", "green"])
    answers = read_lines(tmp_path / "out.jsonl")
    assert [row["prediction"] for row in found.rows] == [answer["label"] for answer in answers]
    assert [row["score"] for row in found.rows] == pytest.approx([answer["score"] for answer in answers], abs=1e-4)
    for row, answer in zip(found.rows, answers):
        assert row["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-4)
        assert row["choices"] == ["red", "blue", "green"]
        assert row["prediction"] == row["choices"][max(range(3), key=row["probabilities"].__getitem__)]
    first = read_lines(tmp_path / "colours_label_chosen_test_first_3.jsonl")[0]
    assert len(first["choices"]) == len(first["probabilities"]) == 3
    assert not {"choices", "probabilities"} & read_lines(tmp_path / "colours_label_test_first_3.jsonl")[0].keys()
    right = [row["prediction"] == row["target"].lower().strip(".") for row in found.rows]
    assert [row["correct"] for row in found.rows] == right
    assert found.metrics["accuracy"] == pytest.approx(sum(right) / len(right))
    with pytest.raises(
        ValueError, match=r"target '0\.' is none of the choices .*; add it to the choices, or choose in the label task"
    ):
        evaluate.evaluate(model_dir, task_name=colours.rationale, decode=decode, **student)


@pytest.mark.parametrize("name", ["sums_label_test.jsonl", "sums_label_test.metrics.json"])
def test_files_of_other_programs_in_the_folder_are_kept(tmp_path, model_dir, sums, name):
    student = {"model": students.read(model_dir).model, "mesh": partitioning.MeshConfig(1, 1, 1)}
    options = {"task_name": sums.label, "output_dir": str(tmp_path), "decode": DECODE, **student}
    (tmp_path / name).write_text('{"id": "mine"}\n')
    with pytest.raises(ValueError, match=rf"the file of .*{name} exists, and was not written by `distill eval`"):
        evaluate.evaluate(model_dir, **options)
    assert (tmp_path / name).read_text() == '{"id": "mine"}\n'
    (tmp_path / name).unlink()
    for _ in range(2 if name.endswith(".jsonl") else 0):
        evaluate.evaluate(model_dir, **options)


def test_predictions_of_the_single_task_without_an_answer_have_an_error(tmp_path, model_dir, sums, caplog):
    student = {"model": students.read(model_dir).model, "mesh": partitioning.MeshConfig(1, 1, 1)}
    decode = dataclasses.replace(DECODE, max_decode_len=40)
    options = {"task_name": sums.single, "max_examples": 3, "output_dir": str(tmp_path), **student}
    found = evaluate.evaluate(model_dir, decode=decode, **options)
    assert all(row["error"].startswith("the student's text ") and row["correct"] is False for row in found.rows)
    assert [
        text for text in caplog.messages if text.startswith("3 of 3 predictions have no answer: the student's text ")
    ]
    assert [row["error"] for row in read_lines(next(tmp_path.glob("sums_single_*.jsonl")))]
    with pytest.raises(ValueError, match=r"'sums_single': this student writes its reasons before its answer"):
        evaluate.evaluate(model_dir, decode=dataclasses.replace(DECODE, answers="choose"), **options)


def test_predictions_that_are_cut_or_empty_are_counted(sums):
    evaluator = evaluate.Evaluator(sums.label, "test", None, max_examples=3)
    texts = {"4": True, "": True, "7": False}
    found = evaluator.score(
        [Prediction(np.array(BYTES.encode(text), np.int32), -1.0, cut) for text, cut in texts.items()]
    )
    assert [row["prediction"] for row in found.rows] == [*texts] and (found.cut, found.empty) == (2, 1)


def test_rows_without_a_target_are_counted(tmp_path):
    rows = [{"input": f"{n}?", "label": str(n) if n else "", "rationale": f"{n}."} for n in range(4)]
    write_lines(tmp_path / "rows.jsonl", rows)
    write_lines(tmp_path / "none.jsonl", [{"input": "0?", "rationale": "0."}] * 2)
    files = {"train": tmp_path / "rows.jsonl", "validation": tmp_path / "rows.jsonl", "test": tmp_path / "none.jsonl"}
    names = registration.register(jsonl.dataset(files, name="unlabelled"), "bytes")
    found = evaluate.Evaluator(names.label, "validation", None)
    assert (len(found), found.unscored) == (3, "1 of 4 rows has no label and is not scored")
    assert evaluate.Evaluator(names.label, "validation", None, max_examples=3).unscored is None
    assert evaluate.Evaluator(names.rationale, "validation", None).unscored is None
    with pytest.raises(ValueError, match=r"no example in split 'test': 2 of 2 rows have no label and are not scored"):
        evaluate.Evaluator(names.label, "test", None)


def test_answers_without_choices_are_not_chosen(model_dir, sums):
    student = {"model": students.read(model_dir).model, "mesh": partitioning.MeshConfig(1, 1, 1)}
    decode = dataclasses.replace(DECODE, answers="choose")
    with pytest.raises(
        ValueError, match=r"'choose': task 'sums_label', split 'test', row '.*' \(.*:1\) has no choices"
    ):
        evaluate.evaluate(model_dir, task_name=sums.label, decode=decode, **student)
    given = dataclasses.replace(decode, choices=[str(number) for number in range(11)])
    found = evaluate.evaluate(model_dir, task_name=sums.label, decode=given, **student)
    assert {row["prediction"] for row in found.rows} <= set(given.choices)
    few = dataclasses.replace(decode, choices=("none", "one"))
    with pytest.raises(ValueError, match=r"the target '.' is none of the choices \['none', 'one'\]"):
        evaluate.evaluate(model_dir, task_name=sums.label, decode=few, **student)


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        (["red", "red"], r"there must be two different choices or more; got \['red', 'red'\]"),
        (["red"], r"there must be two different choices or more; got \['red'\]"),
        (["red", "x" * 512], "a choice has more than 512 tokens; got 513 in 'x{37}…'"),
    ],
)
def test_choices_that_infer_refuses_are_refused_with_their_row(tmp_path, arguments, choices, problem):
    first = {"id": "r7", "input": "?", "label": "red", "choices": ["red", "blue"]}
    write_lines(tmp_path / "a.jsonl", [first])
    write_lines(tmp_path / "b.jsonl", [first | {"id": "r8"}, first | {"choices": choices}])
    files = {"test": [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]}
    task = registration.register(jsonl.dataset(files, name="odd"), "bytes").label
    decoder = evaluate.Decoder(
        arguments["model"],
        partitioning.MeshConfig(1, 1, 1).build(jax.devices()[:1]),
        dataclasses.replace(DECODE, answers="choose"),
    )
    with pytest.raises(
        ValueError,
        match=rf"task 'odd_label', split 'test', row 'r7' \(.*/b\.jsonl:2\): {problem}.*; correct these choices",
    ):
        evaluate.Evaluator(task, "test", decoder)


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ("yes", "'yes' (str)"),
        (7, "7 (int)"),
        (["yes"], "['yes']: choices has 1 text"),
        (["yes", None], "['yes', None]: choices[1] is null; expected a text or a number"),
        (["yes", " "], "['yes', ' ']: choices[1] is blank"),
        (["1", 1], "['1', 1]: choices[0] and choices[1] are the same text, '1'"),
    ],
)
def test_choices_are_different_texts(choices, why):
    with pytest.raises(ValueError) as error:
        DecodeConfig(answers="choose", choices=choices)
    expected = "DecodeConfig.choices must be a list of two or more different texts, such as ['yes', 'no']; got "
    assert str(error.value) == expected + why
    assert DecodeConfig(answers="choose", choices=[5, 0.5, "six"]).choices == ("5", "0.5", "six")


def test_choices_are_not_ignored():
    with pytest.raises(ValueError, match=r"DecodeConfig\.answers is 'generate'; set it to 'choose', too"):
        DecodeConfig(choices=("yes", "no"))


def test_a_check_that_predictions_can_be_written_leaves_the_folder_as_it_is(tmp_path):
    (tmp_path / ".writable").write_text("the user's")
    evaluate._check_writable(epath.Path(tmp_path))
    evaluate._check_writable(epath.Path(tmp_path / "new" / "folder"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {".writable": "the user's"}
