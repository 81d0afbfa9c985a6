"""A T5Gemma student from its shipped file: trained, continued, evaluated, served, exported and opened by transformers."""

import dataclasses
import json
import pathlib

import pytest

import distill
from distill.api.run import Run
from distill.cli import main
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
from distill.tools import vocabulary as vocabulary_tool
from tests.distill.api.written import FIELDS, sums
from tests_support import read_lines, write_lines

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
QUESTIONS = [row["question"] for row in sums(5)]
# gin/models/t5gemma2_tiny.gin, smaller still: a local layer, whose window is shorter than the inputs, and a global one.
SMALLER = {
    "num_layers": 2, "global_every": 2, "embed_dim": 16, "mlp_dim": 32, "num_heads": 2, "head_dim": 8,
    "query_pre_attn_scalar": 8.0, "sliding_window": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A vocabulary with Gemma's special pieces, of the rows' texts."""
    path = tmp_path_factory.mktemp("words") / "words.model"
    texts = [
        text for row in sums(40) for text in ("[label] " + row["question"], "[rationale] " + row["why"], row["answer"])
    ]
    path.write_bytes(vocabulary_tool.train(texts, 300, special="gemma"))
    return path


def arguments(directory, words, **changes):
    settings = {f"t5gemma_config.StackConfig.{name}": value for name, value in SMALLER.items()}
    settings |= {"VOCAB_SIZE": 384, "ENCODER_BOS": True}
    return {
        "model": "t5gemma2_tiny",
        "vocabulary": words,
        "fields": FIELDS,
        "directory": directory,
        "validation": sums(4, 24),
        "test": sums(6, 28),
        "steps": 20,
        "batch_size": 8,
        "learning_rate": 0.03,
        "lengths": {"inputs": 24, "targets": 24},
        "max_answer_length": 6,
        "eval_period": 20,
        "settings": settings,
        "quiet": True,
    } | changes


@pytest.fixture(scope="module")
def student(words, tmp_path_factory):
    return distill.train(sums(24), **arguments(tmp_path_factory.mktemp("t5gemma2") / "run", words))


@pytest.mark.filterwarnings("ignore")
def test_its_export_opens_in_transformers_and_answers_the_same(student, tmp_path):
    folder = student.export(tmp_path / "hf")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    answers = student.answer(QUESTIONS)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        inputs = tokenizer("[label] " + question, return_tensors="pt")
        ids = inputs.input_ids[0].tolist()
        assert ids[0] == 2 and ids[-1] == 1  # ENCODER_BOS
        decoded = model.generate(**inputs)[0].tolist()
        assert decoded[0] == 2  # the decoder starts with BOS
        assert student.vocabulary.decode(decoded[1:]).strip() == answer.text.strip()
    loaded = distill.load(folder)
    assert loaded.description.encoder_bos
    for ours, theirs in zip(answers, loaded.answer(QUESTIONS), strict=True):
        assert ours.text == theirs.text and ours.score == pytest.approx(theirs.score, abs=1e-4)
    card = (folder / "README.md").read_text()
    assert "tags: [distilling-step-by-step, t5gemma2]" in card and "license: gemma" not in card


def test_a_configuration_becomes_the_runs_model(words, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "train", lambda run, **_: run)
    stack = StackConfig(1, 16, 32, 2, 1, 8, 8.0, 4, 2)
    wider = dataclasses.replace(stack, embed_dim=24, num_layers=2)
    first = T5GemmaConfig(1, 384, wider, stack, attention_logit_cap=9.0, logits_via_embedding=False, decoder_start_id=2)
    second = T5GemmaConfig(2, 384, stack, dataclasses.replace(stack, num_kv_heads=2), rope_base_global=1e6)
    for model in (first, second):
        given = arguments(tmp_path / "run", words, model=model, settings={})
        run = distill.train(sums(12), **given)
        assert run.arguments["model"] == model and not run.registration["encoder_bos"]
        with pytest.raises(
            ValueError, match="vocabulary is missing: a T5GemmaConfig names none; give the path of Gemma's"
        ):
            distill.train(sums(12), **given | {"vocabulary": None})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "spiece.model").touch()
    with pytest.raises(ValueError, match=r"; initial has one, .*/folder/spiece\.model$"):
        distill.train(sums(12), **given | {"vocabulary": None, "initial": tmp_path / "folder"})


def test_the_shipped_files_name_no_vocabulary(tmp_path):
    given = arguments(tmp_path / "run", None, model="t5gemma2_270m", settings={})
    with pytest.raises(
        ValueError, match=r"^vocabulary is used by gin/models/t5gemma2.gin:\d+ and nothing sets it; give it with"
    ):
        distill.train(sums(12), **given)


@pytest.mark.parametrize("vocabulary", ["bytes", "t5s"])
def test_a_vocabulary_without_bos_is_refused_before_training(words, tmp_path, vocabulary):
    path = tmp_path / "t5s.model"
    path.write_bytes(vocabulary_tool.train([row["why"] for row in sums(24)], 30))
    given = arguments(tmp_path / "run", "bytes" if vocabulary == "bytes" else path, settings={"VOCAB_SIZE": 384})
    with pytest.raises(ValueError, match=r"expected BOS with id 2, .*it has none: set .*special=gemma") as raised:
        distill.train(sums(24), **given)
    assert "\n" not in str(raised.value) and not (tmp_path / "run" / "config.gin").exists()


def test_it_continues_evaluates_and_serves(student, words, tmp_path, capsys):
    """The last test here: it changes the student's directory."""
    directory = pathlib.Path(student.directory)
    assert isinstance(student.description.model, T5GemmaConfig) and student.description.encoder_bos
    assert student.result["step"] == 20
    again = distill.train(sums(24), **arguments(directory, words, steps=22))
    assert again.result["step"] == 22
    attempts = json.loads((directory / "attempts.json").read_text())
    assert len(attempts) >= 2
    write_lines(tmp_path / "in.jsonl", sums(5))
    files = [f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"]
    assert main.main(["infer", f"--model_dir={directory}", *files]) == 0, capsys.readouterr().err
    lines = read_lines(tmp_path / "out.jsonl")
    assert [line["label"] for line in lines] == [answer.text for answer in again.answer(QUESTIONS)]
    assert main.main(["eval", f"--model_dir={directory}", "--split=test"]) == 0, capsys.readouterr().err
    accuracy = again.result["test"]["accuracy"]
    assert f"accuracy: {accuracy:.4f}" in capsys.readouterr().out
