"""Answers in memory: forms and prefixes, rationales, long inputs, and no heavy imports."""

import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from distill.inference import answering
from distill.inference.answering import Answered
from distill.inference.decoder import DecodeConfig, Prediction
from distill.inference.student import Student
from distill.model.config import T5Config
from distill.sharding import partitioning
from distill.tasks import plain_vocabularies
from tests_support import read_lines, write_lines

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_answering_imports_neither_tensorflow_nor_seqio(tmp_path, model_dir):
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?"}])
    code = (
        "import sys; from distill.cli import main; "
        f"rc = main.main(['infer', '--model_dir={model_dir}', '--input={tmp_path / 'in.jsonl'}', "
        f"'--output={tmp_path / 'out.jsonl'}']); "
        "heavy = ('tensorflow', 'tensorflow_text', 'seqio', 'tensorflow_datasets', 'clu'); "
        "print(rc, [m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "0 []"
    assert read_lines(tmp_path / "out.jsonl")[0]["line"] == 1


class Echo:
    """Decoders that answer with the input that they were given, so that a test sees how it was encoded."""

    def __init__(self, model, mesh, decode):
        self.decode = decode

    def __call__(self, params, inputs, prompt=()):
        assert params == "parameters"
        score, longest = -float(self.decode.max_decode_len), 64
        return [Prediction(np.array([*prompt, *ids[:-1]][:longest]), score, len(ids) > longest) for ids in inputs]


@pytest.fixture
def answering_of(monkeypatch):
    """An :class:`Answering` of a student whose decoders echo; arguments change the student."""
    monkeypatch.setattr(answering, "Decoder", Echo)

    def made(rationale_decode=None, **changes):
        decode = DecodeConfig(max_decode_len=4, max_input_len=16)
        student = Student(T5Config(384, 16, 2, 8, 32, 1, 1), "bytes", 125, decode=decode, **changes)
        mesh = partitioning.MeshConfig(1, 1, 1).build()
        return answering.Answering(
            student, plain_vocabularies.Bytes(125), "parameters", mesh, rationale_decode=rationale_decode
        )

    return made


def test_labels_and_rationales_have_their_prefixes_and_lengths(answering_of):
    ask = answering_of()
    assert ask(["1?", "2?"]) == [Answered("[label] 1?", -4.0), Answered("[label] 2?", -4.0)]
    assert ask(["1?"], rationale=True) == [Answered("[label] 1?", -4.0, "[rationale] 1?")]
    assert ask.rationales(["1?"]) == ["[rationale] 1?"]
    assert ask([]) == []
    own = answering_of(label_prefix="answer: ", rationale_prefix="why: ")
    assert own(["1?"], rationale=True) == [Answered("answer: 1?", -4.0, "why: 1?")]
    assert answering.rationale_config(ask.student.decode) == DecodeConfig(max_decode_len=256, max_input_len=16)
    assert answering.rationale_config(ask.student.decode, 9).max_decode_len == 9
    assert answering_of()._rationales.decode.max_decode_len == 256
    assert answering_of(rationale_decode=DecodeConfig(max_decode_len=9))._rationales.decode.max_decode_len == 9


def test_what_is_measured_and_then_answered_is_encoded_once(answering_of, monkeypatch):
    ask, encoded = answering_of(), []
    real = answering.texts.encode

    def encode(vocabulary, text, *others, **named):
        encoded.append(text)
        return real(vocabulary, text, *others, **named)

    monkeypatch.setattr(answering.texts, "encode", encode)
    assert ask.fit(["1?", "2?"]).longest == len("[label] 1?") + 1
    assert [answer.label for answer in ask(["1?", "2?"])] == ["[label] 1?", "[label] 2?"]
    assert encoded == ["[label] 1?", "[label] 2?"]
    assert [answer.label for answer in ask(["2?", "1?"])] == ["[label] 2?", "[label] 1?"]
    assert ask(["2?"], rationale=True)[0].rationale == "[rationale] 2?"
    assert len(encoded) == 6 and ask._latest is None


def test_a_student_that_reasons_first_decodes_once(answering_of):
    text = "1 + 1 = 2. So the answer is 2"
    ask = answering_of(form="single")
    assert ask([text]) == [Answered("2", -4.0)]
    assert ask([text], rationale=True) == [Answered("2", -4.0, text)]
    assert ask.rationales([text]) == [text]


def test_a_text_without_an_answer_after_its_marker_is_a_problem(answering_of):
    ask = answering_of(form="single")
    ends, cut = "ends without an answer after its marker", "reached DecodeConfig.max_decode_len without an answer"
    for text, how in (("1 + 1 = 2.", ends), ("1 + 1 = 2. So the answer is", ends), ("x" * 80, cut)):
        (one,) = ask([text], rationale=True)
        assert (one.label, one.rationale, one.cut) == ("", text[:64], how == cut)
        assert one.problem is not None and one.problem.startswith(f"the student's text {how}; got '")
    (one,) = ask(["So the answer is " + "2" * 60])
    assert (one.label, one.problem, one.cut) == ("2" * 47, None, True)
    (label,) = answering_of()([" " * 3])
    assert label.problem is None, "all of a label's text is the answer"
    (empty,) = answering_of(label_prefix="")([" \n"])
    assert empty.problem is None and empty.is_empty and not label.is_empty
    (neither,) = answering_of(form="single")([" \n"])
    assert neither.problem is not None and not neither.is_empty


def test_remarks_name_answers_that_are_incomplete_or_empty():
    assert answering.remarks(0, 0, "") == []
    assert answering.remarks(2, 1, "--gin.MAX_DECODE_LEN=N", "prediction") == [
        "2 predictions reached the maximum number of tokens without an end and may be incomplete; check them, or give "
        "--gin.MAX_DECODE_LEN=N",
        "1 prediction is empty, which no target of the training is; check it, or train the student longer",
    ]


def test_prompts_of_the_target_are_no_part_of_the_input(answering_of):
    ask = answering_of(form="shared_label")
    assert ask(["1?"], rationale=True) == [Answered("[label] 1?", -4.0, "[rationale] 1?")]  # the prompt, then the input
    vocabulary = plain_vocabularies.Bytes(125)
    assert ask._encoded("[label] ", ["1?"]) == [[*vocabulary.encode("1?"), 1]]


def test_inputs_that_are_cut_are_counted_with_their_prefix(answering_of):
    lengths = ["x" * 7, "x" * 8]  # and 8 bytes of prefix, and EOS
    found = answering_of().fit(lengths)
    assert (found.cut, found.unknown) == (1, 0) and found.longest > found.limit
    assert answering_of(form="single").fit(lengths).cut == 0
    assert answering_of(form="shared_label").fit(lengths).cut == 0
    assert answering_of().fit([]) + found == found


def test_inputs_longer_than_those_of_the_training_are_counted(answering_of):
    lengths = ["x" * 3, "x" * 7, "x" * 90]
    found = answering_of(trained_input_len=12).fit(lengths)
    assert (found.cut, found.beyond, found.trained) == (1, 2, 12)
    assert answering_of(trained_input_len=16).fit(lengths).beyond == 0  # no more than 16 tokens are read
    assert answering_of().fit(lengths).beyond == 0 and found + found == answering_of(trained_input_len=12).fit(
        lengths * 2
    )


def test_inputs_with_many_unknown_tokens_are_counted(answering_of):
    ask = answering_of()
    unknown = ask.vocabulary.unk_id
    ids = {"a b": [5, 6, 1], "? b": [unknown, 6, 1], "a b c d ?": [5, 6, 7, 8, unknown, 1]}
    ask._encoded = lambda prefix, inputs: [ids[text] for text in inputs]
    ask.vocabulary = types.SimpleNamespace(encode=lambda text: [], unk_id=unknown)
    assert ask.fit(list(ids)).unknown == 1  # a fifth is not more than a fifth


def test_remarks_agree_with_their_numbers_and_name_the_remedy():
    assert answering.Fit(limit=9, longest=8).remarks("{}") == []
    (one,) = answering.Fit(1, 57, 0, 32).remarks("--gin.MAX_INPUT_LEN={}")
    assert one == (
        "1 input longer than 32 tokens was truncated; the longest has 57 tokens, --gin.MAX_INPUT_LEN=57 keeps it whole"
    )
    own = {32: "training read at most 32 of an input", 20: "--gin.MAX_INPUT_LEN=32 reads as much as the training did"}
    for limit, remedy in own.items():  # of a student that was trained on 32
        (one,) = answering.Fit(1, 57, 0, limit, 0, 32).remarks("--gin.MAX_INPUT_LEN={}")
        assert one.endswith(f"the longest has 57 tokens, {remedy}")
    (beyond,) = answering.Fit(0, 57, 0, 99, 2, 32).remarks("--gin.MAX_INPUT_LEN={}")
    assert beyond == (
        "2 inputs have more than 32 tokens, the most that training read of an input; the longest has 57. Answers to "
        "them are untrained: check them, truncate as training did with --gin.MAX_INPUT_LEN=32, or train with longer inputs "
        "(TASK_FEATURE_LENGTHS)"
    )
    cut, unknown = answering.Fit(2, 57, 3).remarks("{}")
    assert cut.startswith("2 inputs longer than MAX_INPUT_LEN were") and unknown.startswith(
        "3 inputs have more than 20% of tokens"
    )


def test_students_that_cannot_answer_are_refused(answering_of):
    with pytest.raises(ValueError, match=r"form must be one of \('label', 'single', 'shared_label'\); got 'rationale'"):
        answering_of(form="rationale")
    small = Student(T5Config(300, 16, 2, 8, 32, 1, 1), "bytes", 125)
    with pytest.raises(ValueError, match="the vocabulary has 384 ids, but the model's vocab_size is 300"):
        answering.check(small, plain_vocabularies.Bytes(125))


def test_choices_that_cannot_be_chosen_are_named(answering_of):
    ask = answering_of()
    with pytest.raises(ValueError, match=r"inputs\[1\]: there must be two different choices or more; got \['a', 'a'\]"):
        ask(["1?", "2?"], choices=[["a", "b"], ["a", "a"]])
    shared = answering_of(form="shared_label")
    prompt = len(shared.student.label_prefix)
    with pytest.raises(ValueError, match=rf"inputs\[0\]: a choice has more than {512 - prompt} tokens; got 512 in 'xx"):
        shared(["1?"], choices=[["x" * 511, "b"]])
    with pytest.raises(ValueError, match="writes its reasons before its answer"):
        answering_of(form="single")(["1?"], choices=[["a", "b"]])
