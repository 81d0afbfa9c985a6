"""``distill.evaluate``: the numbers of the command, rows as training reads them, and right answers."""

import json

import pytest

import distill
from distill.cli import main
from distill.tasks.records import SourceError
from distill.training import checks
from tests.distill.api.written import FIELDS, arguments, sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_evaluate_gives_the_numbers_of_the_command(trained, tmp_path, capsys):
    assert main.main(["eval", f"--model_dir={trained.directory}", f"--output={tmp_path}"]) == 0, capsys.readouterr().err
    metrics = json.loads((tmp_path / "rows_label_test.metrics.json").read_text())
    assert metrics.pop("settings")["step"] == trained.step
    assert distill.evaluate(trained, sums(6, 28), fields=FIELDS) == metrics == trained.result["test"]
    with_reasons = distill.evaluate(trained, sums(2), fields=FIELDS, rationale=True)
    assert with_reasons["rouge_l_low"] <= with_reasons["rouge_l"] <= with_reasons["rouge_l_high"]
    with pytest.raises(ValueError, match="none of 2 rows has a label"):
        distill.evaluate(trained, [{"input": "1?"}, {"input": "2?"}], fields={})


def test_evaluate_reads_rows_as_training_did(trained, tmp_path):
    """A file and dicts by the training's fields, also after loading; rows need no more fields than scores do."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(6, 28)))
    expected = distill.evaluate(trained, sums(6, 28), fields=FIELDS)
    assert distill.evaluate(trained, tmp_path / "rows.jsonl") == expected
    assert distill.evaluate(distill.load(trained.directory), iter(sums(6, 28))) == expected
    without = [{name: row[name] for name in ("question", "answer")} for row in sums(6, 28)]
    assert distill.evaluate(trained, without) == expected
    assert distill.evaluate(trained, distill.read(sums(6, 28), fields=FIELDS)) == expected
    assert "rouge_l" in distill.evaluate(trained, sums(2), rationale=True)
    with pytest.raises(
        SourceError, match=r"field 'question' .*rows are read as in training: fields={…} names other fields"
    ):
        distill.evaluate(trained, [{"input": "1?", "label": "1"}])


def test_right_answers_count(trained):
    answers = trained.answer(["1 and 2?", "3 and 4?"])
    rows = [
        distill.Record("a", "1 and 2?", answers[0].text or "none"),
        distill.Record("b", "3 and 4?", answers[1].text + " and more"),
    ]
    scores = distill.evaluate(trained, rows)
    assert scores["accuracy"] == (0.5 if answers[0].text.strip(" .\n") else 0.0)
    assert 0 <= scores["accuracy_low"] < scores["accuracy"] + 1e-9 and scores["accuracy_high"] < 1


def length(gold, answers):
    assert [target.text for target in gold]
    return {"length": sum(map(len, answers)) / len(answers)}


def test_metrics_of_the_user_are_those_of_the_training(tmp_path, capsys, caplog):
    """They are computed in training, select the best parameters, and are computed again; otherwise a warning names them."""
    splits = {"validation": sums(4, 24), "test": sums(6, 28)}
    settings = {"train.ValidationConfig.metric": "length"}
    student = distill.train(sums(24), **splits, **arguments(tmp_path / "run", metrics=[length], settings=settings))
    assert student.result["selection"]["metric"] == "length"
    assert distill.evaluate(distill.load(tmp_path / "run"), sums(6, 28), metrics=[length]) == student.result["test"]
    assert "of the training" not in caplog.text
    assert "length" not in distill.evaluate(student, sums(6, 28))
    assert "length of the training is not computed; give metrics=[…]" in caplog.text
    caplog.clear()
    assert main.main(["eval", f"--model_dir={tmp_path / 'run'}", f"--output={tmp_path}"]) == 0, capsys.readouterr().err
    assert "length of the training is not computed; bind registration.register.label_metrics" in caplog.text


def test_rationales_are_scored_by_a_function_of_the_user(trained):
    def words(targets, predictions):
        seen.extend(zip([target.text for target in targets], predictions, strict=True))
        return {"words": 2}

    seen = []
    found = distill.evaluate(trained, sums(2), rationale=True, rationale_metrics=[words])
    assert found["words"] == 2 and {"accuracy", "rouge_l"} <= found.keys()
    assert seen[-2:] == list(zip([row["why"] for row in sums(2)], trained.rationales(sums(2))))


def test_a_metric_is_checked_before_answers_are_decoded(trained, monkeypatch):
    monkeypatch.setattr(type(trained), "answer", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(TypeError, match="metric <lambda> must return numbers by name"):
        distill.evaluate(trained, sums(2), metrics=[lambda targets, predictions: 0.5])
    with pytest.raises(TypeError, match=r"metrics\[0\] must take two positional arguments, .*; got len\("):
        distill.evaluate(trained, sums(2), metrics=[len])
    with pytest.raises(ValueError, match="returns 'rouge_l', a name that <lambda> returns, too"):
        distill.evaluate(trained, sums(2), metrics=[lambda targets, predictions: {"rouge_l": 1}], rationale=True)
    with pytest.raises(ValueError, match="metric length returns 'length', a name that length returns, too"):
        distill.evaluate(trained, sums(2), metrics=[length], rationale_metrics=[length], rationale=True)
    with pytest.raises(ValueError, match="got rationale=False: give rationale=True"):
        distill.evaluate(trained, sums(2), rationale_metrics=[length])
    with pytest.raises(TypeError, match=r"metrics must be a list of functions, .*; got length"):
        distill.evaluate(trained, sums(2), metrics=length)


def test_the_line_that_names_the_files_is_the_last_after_the_warning_of_rows_that_were_trained_on(
    trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(checks, "scored_again", lambda *given: [f"{given[1:]} was trained on"])
    assert main.main(["eval", f"--model_dir={trained.directory}", f"--output={tmp_path}"]) == 0
    *_, warning, last = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line or "step" in line]
    assert warning == "WARNING ('rows_label', 'test', 6) was trained on" and "its predictions are in" in last
