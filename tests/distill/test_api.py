"""The Python interface: what ``import distill`` offers, and that it agrees with the command line."""

import inspect
import json
import pathlib

import gin
import pytest

import distill
from distill.api import configuration, run
from distill.cli import main
from distill.model.network import T5Config
from distill.tasks import registration
from distill.tasks.records import RowError, SourceError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TINY = T5Config(384, 16, 2, 8, 32, 1, 1)
FIELDS = {"input": "question", "rationale": "why", "label": "answer"}
LENGTHS = {"inputs": 64, "targets": 64}


def sums(number, start=0):
    return [
        {
            "question": f"{i % 7} and {i // 7 % 5}?",
            "why": f"{i % 7} and {i // 7 % 5}.",
            "answer": str(i % 7 + i // 7 % 5),
        }
        for i in range(start, start + number)
    ]


def arguments(directory, **changes):
    return {
        "model": TINY,
        "vocabulary": "bytes",
        "fields": FIELDS,
        "directory": directory,
        "steps": 4,
        "batch_size": 8,
        "lengths": LENGTHS,
        "max_answer_length": 4,
        "eval_period": 4,
        "quiet": True,
    } | changes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A student trained on rows in memory."""
    directory = tmp_path_factory.mktemp("api") / "run"
    return distill.train(sums(24), validation=sums(4, 24), test=sums(6, 28), **arguments(directory))


def test_every_public_name_can_be_imported():
    assert set(distill.__all__) == {*distill._PUBLIC, "__version__"}
    assert {name for name in dir(distill) if not name.startswith("_")} == set(distill.__all__) - {"__version__"}
    assert "__version__" in dir(distill)
    for name in distill._PUBLIC:
        found = getattr(distill, name)
        assert inspect.ismodule(found) == (name in ("losses", "optimizers"))
        assert found.__doc__, name
    with pytest.raises(AttributeError, match="'trian'; it has Answer"):
        _ = distill.trian


def test_the_directory_is_that_of_the_command(trained, tmp_path, capsys):
    folder = pathlib.Path(trained.directory)
    assert {"config.gin", "student.json", "result.json", "rows"} <= {path.name for path in folder.iterdir()}
    assert [json.loads(line) for line in (folder / "rows" / "train.jsonl").read_text().splitlines()] == sums(24)
    assert trained.result["step"] == 4
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(3)))
    words = [f"--model_dir={folder}", f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"]
    assert main.main(["infer", *words, "--rationale"]) == 0, capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    answers = trained.answer([row["question"] for row in sums(3)], rationale=True)
    assert [line["label"] for line in lines] == [answer.text for answer in answers]
    assert [line["rationale"] for line in lines] == [answer.rationale for answer in answers]
    assert [line["score"] for line in lines] == pytest.approx([answer.score for answer in answers], abs=1e-5)
    assert trained.answer(sums(1)) == trained.answer(sums(1)[0]["question"])


def test_evaluate_gives_the_numbers_of_the_command(trained, tmp_path, capsys):
    assert main.main(["eval", f"--model_dir={trained.directory}", f"--output={tmp_path}"]) == 0, capsys.readouterr().err
    metrics = json.loads((tmp_path / "rows_label_test.metrics.json").read_text())
    assert distill.evaluate(trained, sums(6, 28), fields=FIELDS) == metrics == trained.result["test"]
    with_reasons = distill.evaluate(trained, sums(2), fields=FIELDS, rationale=True)
    assert with_reasons["rouge_l_low"] <= with_reasons["rouge_l"] <= with_reasons["rouge_l_high"]
    with pytest.raises(ValueError, match="none of the 2 rows has a label"):
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


def test_a_table_larger_than_the_vocabulary_is_named_once(tmp_path):
    given = {"MODEL_DIR": tmp_path / "run", "FILES": {"train": "a.jsonl"}, "VOCABULARY_PATH": "bytes"}
    files = ["gin/models/t5_1_1_small.gin", "gin/tasks/jsonl.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
    table, windows = distill.from_gin(files, given).advice()
    assert "384 ids and the student's table 32,128 rows: --gin.VOCAB_SIZE=384 saves 32,505,856 parameters" in table
    assert "TASK_FEATURE_LENGTHS counts bytes, now 512 for inputs and 256 for targets" in windows
    assert distill.from_gin(files, given | {"VOCAB_SIZE": 384}).advice() == []
    assert distill.from_gin(files, given | {"INITIAL_CHECKPOINT_PATH": "runs/a"}).advice() == []


def test_right_answers_count(trained):
    answers = trained.answer(["1 and 2?", "3 and 4?"])
    rows = [
        distill.Record("a", "1 and 2?", answers[0].text or "none"),
        distill.Record("b", "3 and 4?", answers[1].text + " and more"),
    ]
    scores = distill.evaluate(trained, rows)
    assert scores["accuracy"] == (0.5 if answers[0].text.strip(" .\n") else 0.0)
    assert 0 <= scores["accuracy_low"] < scores["accuracy"] + 1e-9 and scores["accuracy_high"] < 1


def test_a_finished_run_is_loaded_and_another_is_refused(trained):
    again = arguments(trained.directory)
    splits = {"validation": sums(4, 24), "test": sums(6, 28)}
    assert distill.train(sums(24), **splits, **again).step == trained.step
    with pytest.raises(ValueError, match="was trained on other rows"):
        distill.train(sums(23), **splits, **again)
    with pytest.raises(ValueError, match="finished run with other settings:\n  seed was 0 and is now 1"):
        distill.train(sums(24), **splits, **again, seed=1)
    more = distill.train(sums(24), **splits, **{**again, "steps": 5})
    assert more.result["step"] == 5


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


def test_rows_are_read_from_files_dicts_and_records(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sums(3)))
    from_dicts = distill.read(sums(3), fields=FIELDS)
    assert distill.read(path, fields=FIELDS) == distill.read([path], fields=FIELDS) == from_dicts
    assert distill.read(from_dicts) == from_dicts
    assert [record.label for record in from_dicts] == ["0", "1", "2"]
    with pytest.raises(TypeError, match=r"rows\[0\] must be a dict or a Record; got int"):
        distill.read([1])
    with pytest.raises(ValueError, match="rows is empty"):
        distill.read([])
    with pytest.raises(ValueError, match="leave fields out"):
        distill.read(from_dicts, fields=FIELDS)
    with pytest.raises(SourceError, match=r"^the rows: no row has the field 'questoin'.*did you mean 'question'"):
        distill.read(sums(2), fields={"input": "questoin"})
    with pytest.raises((SourceError, RowError), match="the rows: none of its 1 rows can be used"):
        distill.read([{"input": None}])


def test_register_makes_tasks():
    names = distill.register(sums(20), "bytes", name="api_sums", fields=FIELDS, test=sums(3, 20))
    assert names.paired == "api_sums_paired"
    task = registration.get(names.label)
    assert task.num_input_examples("test") == 3
    assert {"train", "validation", "test"} == set(task.splits)


def test_from_gin_is_the_run_of_the_command(tmp_path):
    with gin.unlock_config():
        gin.clear_config()
    gin.parse_config("MINE = 3")
    given = {"MODEL_DIR": tmp_path / "run", "VOCABULARY_PATH": "bytes", "TRAIN_STEPS": 70, "LAMBDA": 0.25}
    got = distill.from_gin("gin/recipes/quickstart.gin", given)
    assert gin.query_parameter("MINE/macro.value") == 3  # the caller's configuration is left alone
    assert got.arguments["loop"].train_steps == 70
    assert got.arguments["loss"].lam == 0.25
    assert got.directory == str(tmp_path / "run")
    assert got.bindings["TRAIN_STEPS"] == 70
    with pytest.raises(configuration.ConfigurationError, match="nothing uses TRIAN_STEPS"):
        distill.from_gin(
            "gin/recipes/quickstart.gin", [*(f"{k} = {str(v)!r}" for k, v in given.items()), "TRIAN_STEPS=1"]
        )
    assert gin.query_parameter("MINE/macro.value") == 3
    with pytest.raises(configuration.ConfigurationError, match="MESH must be a number, a text"):
        distill.from_gin("gin/recipes/quickstart.gin", given | {"MESH": object()})
    with pytest.raises(
        configuration.ConfigurationError, match=r"steps=7; bindings={'TRAIN_STEPS': …} sets steps, .*$"
    ):  # and no remark of gin's
        distill.from_gin("gin/recipes/quickstart.gin", given | {"TRAIN_STEPS": 7})
    assert isinstance(got, run.Run)
    gin.clear_config()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": "t5_1_1_smal"}, "did you mean .*t5_1_1_small.gin"),
        ({"method": "distil"}, "method must be one of .*'distil'; did you mean 'distill'"),
        ({"lam": 1.0, "alpha": 0.5}, "give lam or alpha, not both"),
        ({"vocabulary": None}, "vocabulary is missing: a T5Config names none"),
        ({"vocabulary": "/absent/spiece.model"}, "no vocabulary at /absent/spiece.model"),
        ({"hardware": "gpuu"}, "gin/hardware/gpuu.gin"),
        ({"fields": {"inptu": "question"}}, "a record has no field 'inptu'; did you mean 'input'"),
        ({"settings": {"TRIAN_STEPS": 3}}, "nothing uses TRIAN_STEPS"),
        ({"batch_size": "8"}, r"batch_size \(set in the arguments\).*expected int"),
        ({"settings": {"FORM": "piared"}}, "settings={'FORM': …} sets form"),
        ({"hardware": "tpu_v5e_16"}, "hardware='cpu'"),
        ({"fields": None}, r"no row has the field 'input'; fields maps .* \(the rows have: answer, question, why\)"),
        ({"max_answer_length": 1}, "max_answer_length=2 fits all"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, changes, error):
    with pytest.raises((ValueError, FileNotFoundError), match=error) as raised:
        distill.train(sums(8), **arguments(tmp_path / "runs" / "a", **changes))
    assert len(str(raised.value).splitlines()) == 1
    assert "--" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["distill_shared", "single_task"])
def test_other_methods_answer_and_evaluate(tmp_path, method):
    student = distill.train(
        sums(12), test=sums(3), **arguments(tmp_path / "run", method=method, max_answer_length=40, steps=2)
    )
    assert distill.evaluate(student, sums(3), fields=FIELDS) == student.result["test"]
    [answer] = student.answer(["1 and 2?"], rationale=True)
    assert isinstance(answer.rationale, str) and answer.score < 0
    loaded = distill.load(student.export(tmp_path / "hf"))
    [exported] = loaded.answer(["1 and 2?"], rationale=True)
    assert (exported.text, exported.rationale) == (answer.text, answer.rationale)


def test_the_vocabulary_of_a_model_directory_is_used(trained, tmp_path):
    changes = {"vocabulary": None, "initial": trained.directory, "steps": 1}
    student = distill.train(sums(8), **arguments(tmp_path / "run", **changes))
    assert student.vocabulary == trained.vocabulary
