"""``distill.train``: the directory of the command, runs that are repeated or continued, and mistakes."""

import dataclasses
import json
import pathlib
import shutil

import jax
import optax
import pytest

import distill
from distill.api import training
from distill.cli import main
from distill.tools import vocabulary
from distill.training import train as training_loop
from distill.training.callbacks import Callback
from tests.distill.api.written import FIELDS, TINY, arguments, sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SMALLER = dataclasses.replace(TINY, vocab_size=300)
SHORT = {"input": "question", "label": "answer"}


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


@pytest.fixture
def restored(trained, tmp_path):
    """The trained student, whose directory is put back afterwards."""
    shutil.copytree(trained.directory, tmp_path / "before")
    yield trained
    shutil.rmtree(trained.directory)
    shutil.copytree(tmp_path / "before", trained.directory)


class Idle(Callback):
    pass


def test_a_finished_run_is_loaded_and_another_is_refused(restored, tmp_path, capsys):
    trained, again = restored, arguments(restored.directory)
    splits = {"validation": sums(4, 24), "test": sums(6, 28)}
    assert distill.train(sums(24), **splits, **again).step == trained.step
    with pytest.raises(ValueError, match=r"trained on other rows than these: rows had 24 rows and now has 23; give"):
        distill.train(sums(23), **splits, **again)
    with pytest.raises(ValueError, match=r"than these: test\[0\] differs, and test had 6 rows and now has 7; give"):
        distill.train(sums(24), **{**splits, "test": sums(7, 29)}, **again)
    (pathlib.Path(restored.directory) / "rows" / "test.jsonl").unlink()  # as if there had been no test=
    with pytest.raises(
        ValueError, match=r"was trained without test=, .*; distill\.evaluate\(distill\.load\('.*'\), rows\)"
    ):
        distill.train(sums(24), **splits, **again)
    shutil.copy(tmp_path / "before" / "rows" / "test.jsonl", pathlib.Path(restored.directory) / "rows")
    with pytest.raises(ValueError, match="finished run with other settings:\n  seed was 0 and is now 1"):
        distill.train(sums(24), **splits, **again, seed=1)
    assert not capsys.readouterr().err
    distill.train(sums(24), **splits, **again, callbacks=[Idle()])
    warning = f"WARNING {restored.directory} is finished; nothing is trained; arguments without effect: callbacks"
    assert warning in capsys.readouterr().err
    more = distill.train(sums(24), **splits, **{**again, "steps": 5})
    assert more.result["step"] == 5


def test_a_folder_of_another_program_is_left_as_it_was(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"^directory=.* holds no run, but notes\.txt, which .* such as directory="):
        distill.train(sums(24), **arguments(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_warnings_and_lines_name_arguments(tmp_path, monkeypatch, capsys):
    def end(*_, **__):
        raise ValueError("BATCH_SIZE")

    monkeypatch.setattr(training_loop, "make_state", end)
    given = arguments(tmp_path / "run", max_answer_length=2, quiet=False) | {
        "model": dataclasses.replace(TINY, vocab_size=1024)
    }
    with pytest.raises(ValueError, match=r"^batch_size$"):
        distill.train(sums(48), validation=sums(12, 24), **given)
    printed = capsys.readouterr().err
    assert "targets (8.3%)" in printed and "is longer than max_answer_length = 2" in printed
    assert "max_answer_length=3 fits all" in printed and "T5Config.vocab_size=384 saves" in printed
    assert "lengths counts bytes, now 64 for inputs" in printed
    assert "MAX_DECODE_LEN" not in printed and "--gin" not in printed


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"model": "t5_1_1_smal"},
            "^model must be one of .*, t5_1_1_base, .*got 't5_1_1_smal'; did you mean 't5_1_1_small'",
        ),
        ({"model": "nope"}, "^model must be one of byt5_base, [^/]*, or the path of a .gin file; got 'nope'$"),
        ({"model": "nope.gin"}, "no gin file 'nope.gin'"),
        ({"method": "distil"}, "method must be one of .*'distil'; did you mean 'distill'"),
        ({"lam": 1.0, "alpha": 0.5}, "give lam or alpha, not both"),
        ({"vocabulary": None}, "vocabulary is missing: a T5Config names none"),
        ({"model": SMALLER}, "384 ids, but the model's vocab_size is 300; T5Config.vocab_size=384 or more fits$"),
        (
            {"mesh": distill.MeshConfig(data=300)},
            "; leave out mesh and take that of hardware='cpu', or give a mesh that ",
        ),
        ({"rows": ["1?", "2?"]}, "; a text is the path of a file: give rows in memory as dicts$"),
        ({"vocabulary": "/absent/spiece.model"}, "no vocabulary at /absent/spiece.model"),
        ({"hardware": "gpu_16"}, "got 'gpu_16'; did you mean 'gpu_8' or 'gpu_1'"),
        ({"hardware": "gpuu"}, "^hardware must be one of cpu, gpu_1, .*; got 'gpuu'"),
        ({"fields": {"inptu": "question"}}, "a record has no field 'inptu'; did you mean 'input'"),
        ({"settings": {"TRIAN_STEPS": 3}}, "nothing uses TRIAN_STEPS"),
        ({"rows": None}, "^rows must be a path, paths, or an iterable of dicts or Records; got NoneType$"),
        ({"rows": b"a.jsonl"}, "^rows must be a path, paths, or an iterable of dicts or Records; got bytes$"),
        ({"rows": sums(1)}, "no row is left for 'validation'.* Give a file of validation rows, validation=…, or more"),
        (
            {"rows": [{"question": "1?", "answer": "1"}] * 8, "fields": SHORT},
            "method='finetune' trains on labels alone$",
        ),
        ({"method": "task_distill"}, r"\(method='task_distill': the teacher's, llm_label\)"),
        ({"directory": ""}, "^directory must be a path; got ''$"),
        ({"initial": ""}, "^initial must be a path; got ''$"),
        ({"initial": "nope"}, "^initial='nope': 'nope' is neither a folder nor a Hugging Face repository"),
        ({"seed": 10**22}, "^seed must be a number of at most 64 bits; got one of 74 bits$"),
        ({"batch_size": 2**63}, "^batch_size must be a number of at most 64 bits"),
        ({"lam": float("nan")}, "^lam must be a finite number; got nan$"),
        ({"learning_rate": float("inf")}, "^learning_rate must be a finite number; got inf$"),
        ({"settings": {"EMA_DECAY": float("nan")}}, r"^settings=\{'EMA_DECAY': …\} must be a finite number.*; got nan"),
        ({"settings": {3: 4}}, "^settings must map names to values, .*; got the name 3$"),
        ({"lengths": {"inputs": -1, "targets": 64}}, r"^lengths\['inputs'\] must be an integer ≥ 1; got -1$"),
        ({"lengths": {"inputs": "64", "targets": 64}}, r"^lengths\['inputs'\] must be an integer ≥ 1; got '64'$"),
        ({"callbacks": 3}, r"^callbacks must be .*; got 3 \(int\); give a list$"),
        ({"callbacks": distill.Callback}, "^callbacks must be .*; got the class Callback; give a list$"),
        ({"callbacks": [distill.Callback]}, r"^callbacks\[0\] must be an instance; got the class Callback"),
        ({"callbacks": [3]}, r"^callbacks must be .*; got \[3\] \(list\)$"),
        ({"optimizer": "adam"}, r"^optimizer must be .*; got 'adam' \(str\)$"),
        ({"optimizer": optax.sgd(0.1)}, r"^optimizer must be Optimizer; got .* \(GradientTransformationExtraArgs\)$"),
        ({"rules": [("embed", 3)]}, r"^rules must be Sequence\[.*; got \[\('embed', 3\)\] \(list\)$"),
        ({"test": [{"question": "1?"}]}, "^the test rows: no row has the field 'why' that 'rationale' is mapped to"),
        ({"test": []}, "^test is empty; give at least one row$"),
        ({"validation": [1]}, r"^validation\[0\] must be a dict or a Record; got int$"),
        ({"validation": "absent.jsonl"}, r"absent\.jsonl.*\(rows of split validation\)"),
        ({"settings": {"FORM": "piared"}}, r"^settings\['FORM'\] must be one of .*; did you mean 'paired'"),
        ({"hardware": "tpu_v5e_16"}, "; leave out mesh and take that of hardware='cpu', or give a mesh that fits$"),
        ({"fields": None}, r"no row has the field 'input'; fields maps .* \(the rows have: answer, question, why\)"),
        (
            {"fields": {"input": "question", "label": "anwser"}, "vocabulary": "/absent"},
            "no row has the field 'anwser' that",
        ),
        ({"answer": "txt", "vocabulary": "/absent"}, "must be one of"),
        ({"max_answer_length": 1}, "max_answer_length=2 fits all"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, changes, error):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=error) as raised:
        distill.train(**{"rows": sums(8), **arguments(tmp_path / "runs" / "a"), **changes})
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
    assert (answer.error is not None) == (method == "single_task" and not answer.text)
    loaded = distill.load(student.export(tmp_path / "hf"))
    [exported] = loaded.answer(["1 and 2?"], rationale=True)
    assert (exported.text, exported.rationale) == (answer.text, answer.rationale)


def test_the_vocabulary_of_a_folder_is_named_where_another_or_none_is_given(trained, tmp_path):
    folder = trained.export(tmp_path / "hf")
    (folder / "spiece.model").write_bytes(vocabulary.train(["1 and 2? 3 they are because"] * 9, 40))
    given = {"model": SMALLER, "initial": folder}
    with pytest.raises(ValueError, match=r"names none; .*; initial has one, .*/hf/spiece\.model$"):
        distill.train(sums(8), **arguments(tmp_path / "run", vocabulary=None, **given))
    with pytest.raises(
        ValueError, match=r"SentencePiece there, bytes here; set vocabulary=.*/hf/spiece\.model, or start"
    ):
        distill.train(sums(8), **arguments(tmp_path / "run", **given))


def test_the_vocabulary_of_a_model_directory_is_used(trained, tmp_path):
    changes = {"vocabulary": None, "initial": trained.directory, "steps": 1}
    student = distill.train(sums(8), **arguments(tmp_path / "run", **changes))
    assert student.vocabulary == trained.vocabulary


def test_the_missing_hardware_file_is_that_of_the_devices(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(ValueError, match=r"JAX has 8 gpu devices; use --gin_file=gin/hardware/gpu_8\.gin here"):
        training._hardware(None)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert training._hardware(None) == "gpu_1"
