"""A T5Gemma student from its shipped file: trained, continued, evaluated, served, exported and opened by transformers."""

import dataclasses
import json
import pathlib

import pytest

import distill
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


def test_it_continues_evaluates_and_serves(student, words, tmp_path, capsys):
    directory = pathlib.Path(student.directory)
    assert isinstance(student.description.model, T5GemmaConfig) and student.description.encoder_bos
    assert student.result["step"] == 20
    again = distill.train(sums(24), **arguments(directory, words, steps=22))
    assert again.result["step"] == 22
    attempts = json.loads((directory / "attempts.json").read_text())
    assert len(attempts) >= 2
    write_lines(tmp_path / "in.jsonl", sums(5))
    files = [f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"]
    assert main.main(["infer", f"--model_dir={directory}", *files, "--rationale"]) == 0, capsys.readouterr().err
    answers = again.answer(QUESTIONS, rationale=True)
    lines = read_lines(tmp_path / "out.jsonl")
    assert [line["label"] for line in lines] == [answer.text for answer in answers]
    assert [line["rationale"] for line in lines] == [answer.rationale for answer in answers]
    assert distill.evaluate(again, sums(6, 28), fields=FIELDS) == again.result["test"]
    assert main.main(["eval", f"--model_dir={directory}", "--split=test"]) == 0, capsys.readouterr().err


def exported_is_the_student(student, folder, bos):
    """Checks an exported folder against the student: ids of inputs, greedy answers and scores."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    answers = student.answer(QUESTIONS)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        inputs = tokenizer("[label] " + question, return_tensors="pt")
        ids = inputs.input_ids[0].tolist()
        assert (ids[0] == 2) == bos and ids[-1] == 1
        decoded = model.generate(**inputs)[0].tolist()
        assert decoded[0] == 2  # the decoder starts with BOS
        assert student.vocabulary.decode(decoded[1:]).strip() == answer.text.strip()
    loaded = distill.load(folder)
    assert loaded.description.encoder_bos == bos
    for ours, theirs in zip(answers, loaded.answer(QUESTIONS), strict=True):
        assert ours.text == theirs.text and ours.score == pytest.approx(theirs.score, abs=1e-4)
    return (folder / "README.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_its_export_opens_in_transformers_and_answers_the_same(student, tmp_path):
    card = exported_is_the_student(student, student.export(tmp_path / "hf"), bos=True)
    assert "tags: [distilling-step-by-step, t5gemma2]" in card and "license: gemma" not in card


@pytest.mark.filterwarnings("ignore")
def test_a_configuration_of_version_1_trains_and_exports(words, tmp_path):
    stack = StackConfig(1, 16, 32, 2, 1, 8, 8.0, 4, 2)
    wider = dataclasses.replace(stack, embed_dim=24)
    model = T5GemmaConfig(1, 384, wider, stack, attention_logit_cap=50.0, final_logit_cap=30.0)
    given = arguments(tmp_path / "run", words, model=model, settings={}, steps=4, eval_period=4)
    student = distill.train(sums(12), **given | {"test": None})
    assert student.description.model == model and not student.description.encoder_bos
    exported_is_the_student(student, student.export(tmp_path / "hf"), bos=False)
    with pytest.raises(ValueError, match="vocabulary is missing: a T5GemmaConfig names none; give the path of Gemma's"):
        distill.train(sums(12), **given | {"vocabulary": None, "directory": tmp_path / "other"})


@pytest.mark.parametrize("vocabulary", ["bytes", "t5s"])
def test_a_vocabulary_without_bos_is_refused_before_training(words, tmp_path, vocabulary):
    path = tmp_path / "t5s.model"
    path.write_bytes(vocabulary_tool.train([row["why"] for row in sums(24)], 30))
    given = arguments(tmp_path / "run", "bytes" if vocabulary == "bytes" else path, settings={"VOCAB_SIZE": 384})
    with pytest.raises(ValueError, match=r"expected BOS with id 2, .*it has none: set .*special=gemma") as raised:
        distill.train(sums(24), **given)
    assert "\n" not in str(raised.value) and not (tmp_path / "run" / "config.gin").exists()
