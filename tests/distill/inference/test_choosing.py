"""The log-probability of each choice: against PyTorch, one choice at a time, and against the student's own decoding."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from distill.checkpoints import huggingface
from distill.inference import choosing
from distill.inference.choosing import Chooser
from distill.inference.decoder import DecodeConfig, Decoder
from distill.model.parameters import in_compute_dtype
from distill.sharding import partitioning
from distill.tasks import plain_vocabularies, vocabularies
from tests.distill import gemma_models, hf_models

VOCAB = 72


def chooser(config, rows=3, mesh=None, **settings):
    mesh = mesh or partitioning.MeshConfig(1, 1, 1).build(jax.devices()[:1])
    decoder = Decoder(config, mesh, DecodeConfig(batch_size=rows, bucket=8, max_input_len=16, **settings))
    return Chooser(decoder), decoder


def questions(seed=0, rows=5):
    """Inputs, and two to four choices for each, of one to six tokens and EOS."""
    rng = np.random.default_rng(seed)
    draw = lambda longest: [*rng.integers(3, VOCAB, rng.integers(1, longest)).tolist(), 1]  # noqa: E731
    inputs = [np.array(draw(16), np.int32) for _ in range(rows)]
    return inputs, [[draw(7) for _ in range(rng.integers(2, 5))] for _ in range(rows)]


def theirs(model, inputs, choices, start, prompt=()):
    """transformers' log-probabilities, one choice at a time."""
    found = []
    for ids, own in zip(inputs, choices):
        of_row = []
        for choice in own:
            target = [*prompt, *choice]
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor(ids[None].astype(np.int64)),
                    decoder_input_ids=torch.tensor([[start, *target[:-1]]]),
                ).logits
            log_probs = torch.log_softmax(logits[0].double(), -1)[range(len(target)), target]
            of_row.append(float(log_probs[len(prompt) :].sum()))
        found.append(np.array(of_row))
    return found


@pytest.mark.parametrize("family", ["t5", "t5_v1_1", *gemma_models.FAMILIES])
@pytest.mark.parametrize("prompt", [(), (5, 9)])
def test_log_probabilities_are_those_of_transformers(family, prompt, tmp_path):
    gemma = family in gemma_models.FAMILIES
    model = gemma_models.build(family) if gemma else hf_models.build(family)
    folder = gemma_models.save(model, tmp_path / "m") if gemma else hf_models.save(model, family, tmp_path / "m")
    config, params = huggingface.load_pretrained(folder)
    inputs, choices = questions()
    choose, _ = chooser(config)
    got = choose(params, inputs, choices, prompt)
    want = theirs(model, inputs, choices, 2 if gemma else 0, prompt)
    for chosen, log_probs in zip(got, want):
        np.testing.assert_allclose(chosen.log_probs, log_probs, rtol=0, atol=2e-4)
        assert chosen.number == int(np.argmax(log_probs))
        assert chosen.log_prob == chosen.log_probs.max()
        np.testing.assert_allclose(chosen.probabilities, np.exp(log_probs) / np.exp(log_probs).sum(), atol=1e-5)


def test_scores_per_token(student):
    config, params = student
    inputs, choices = questions(seed=1)
    got = chooser(config, normalize_by_target_length=True)[0](params, inputs, choices)
    plain = chooser(config)[0](params, inputs, choices)
    for own, one, other in zip(choices, got, plain):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)
        each = other.log_probs / [len(choice) for choice in own]
        assert one.number == int(np.argmax(each)) == int(np.argmax(one.probabilities))
        np.testing.assert_allclose(one.probabilities, np.exp(each) / np.exp(each).sum(), atol=1e-5)
    assert [one.number for one in got] != [one.number for one in plain]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    model = hf_models.build("t5_v1_1")
    return huggingface.load_pretrained(hf_models.save(model, "t5_v1_1", tmp_path_factory.mktemp("student") / "m"))


def test_the_score_of_a_decoded_answer_is_that_of_the_same_choice(student):
    config, params = student
    inputs, choices = questions(rows=6)
    choose, decoder = chooser(config, max_decode_len=4)
    decoded = decoder(params, inputs)
    whole = [row for row, one in enumerate(decoded) if len(one.tokens) == 4]  # neither EOS nor padding was decoded
    assert whole
    for row in whole:
        (chosen,) = choose(params, [inputs[row]], [[*choices[row], decoded[row].tokens.tolist()]])
        assert chosen.log_probs[-1] == pytest.approx(decoded[row].log_prob, abs=1e-4)


def test_windows_batches_and_devices_change_nothing(student, monkeypatch):
    config, params = student
    inputs, choices = questions(seed=3, rows=7)
    want = chooser(config)[0](params, inputs, choices)
    monkeypatch.setattr(choosing, "WINDOW", 9)  # a row takes several windows
    mesh = partitioning.MeshConfig(data=4, fsdp=1, model=2).build()
    with jax.set_mesh(mesh):
        got = chooser(config, rows=4, mesh=mesh)[0](params, inputs, choices)
    for one, other in zip(got, want):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)
        assert one.number == other.number


def test_a_choice_that_is_listed_twice_counts_once(student):
    config, params = student
    inputs, ((one, other, *_), *_) = questions(rows=1)
    (plain,) = chooser(config)[0](params, inputs, [[one, other]])
    (twice,) = chooser(config)[0](params, inputs, [[one, other, one]])
    first, second = plain.probabilities
    np.testing.assert_allclose(twice.probabilities, [first / 2, second, first / 2], atol=1e-5)
    assert [one, other, one][twice.number] == [one, other][plain.number]


def test_windows_of_similar_length_share_a_program(student):
    config, params = student
    choose, decoder = chooser(config, rows=1)
    program = choosing._program(config, decoder.mesh, ())
    kept = program._cache_size()
    for length in (17, 19, 24):
        choose(params, [np.array([5, 1], np.int32)], [[[3] * (length - 2), [4, 1]]])
    assert program._cache_size() == kept + 1


def test_parameters_in_the_compute_dtype_give_the_same(student):
    config, params = student
    half = dataclasses.replace(config, dtype="bfloat16")
    inputs, choices = questions(rows=3)
    want = chooser(half)[0](params, inputs, choices)
    got = chooser(half)[0](in_compute_dtype(params, half), inputs, choices)
    for one, other in zip(got, want):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-6)


def test_what_cannot_be_chosen_from(student):
    config, params = student
    choose, _ = chooser(config)
    inputs, choices = questions(rows=2)
    for wrong in ([], [[3, 1], []], [[3] * choosing.WINDOW]):
        with pytest.raises(ValueError, match=r"inputs\[1\] must have choices of 1 to 511 tokens; got the lengths "):
            choose(params, inputs, [choices[0], wrong], (7,))
    assert choose(params, [], []) == []


def test_a_student_that_is_not_finite_has_no_score():
    log_probs = np.array([-1.0, np.nan], np.float32)
    assert np.isnan(choosing.Chosen(0, log_probs, log_probs, np.ones(2, np.int64)).log_prob)


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        (["yes", "no"], None),
        (["yes", "no", "yes"], None),
        ([], "there must be two different choices or more; got []"),
        (["yes"], "there must be two different choices or more; got ['yes']"),
        (["yes", "yes"], "there must be two different choices or more; got ['yes', 'yes']"),
        (["yes", " \u200b"], "a choice has no visible character; got ' \\u200b'"),
        (["yes", "n" * 512], f"a choice has more than 512 tokens; got 513 in '{'n' * 37}…'"),
    ],
)
def test_problems_of_choices(choices, problem):
    assert choosing.problem_of(plain_vocabularies.Bytes(125), (), choices) == problem


def test_choices_that_several_rows_have_are_encoded_once(monkeypatch):
    calls, encoded = [], choosing.encoded
    monkeypatch.setattr(choosing, "encoded", lambda *given: calls.append(given[1]) or encoded(*given))
    vocabulary, rows = plain_vocabularies.Bytes(125), [["yes", "no"], ["a", "b"], ("yes", "no")]
    found = choosing.all_encoded(vocabulary, rows, (), "row {}: {}".format)
    assert calls == [("yes", "no"), ("a", "b")]
    assert found == [encoded(vocabulary, row) for row in rows]
    with pytest.raises(ValueError, match=r"^row 1: there must be two different choices or more"):
        choosing.all_encoded(vocabulary, [["yes", "no"], ["yes"]], (), "row {}: {}".format)


def test_a_prompt_leaves_choices_less_room():
    choices, bytes_of = ["yes", "n" * 510], plain_vocabularies.Bytes(125)
    assert choosing.problem_of(bytes_of, (3,), choices) is None
    problem = choosing.problem_of(bytes_of, (3, 4), choices)
    assert problem is not None and problem.startswith("a choice has more than 510 tokens; got 511 in 'nnn")


def test_choices_that_the_vocabulary_cannot_tell_apart(small_vocabulary):
    vocabulary = plain_vocabularies.SentencePiece(vocabularies.model_bytes(small_vocabulary), 0, "small")
    assert choosing.problem_of(vocabulary, (), ["☃", "☂"]) == "two choices have the same tokens; got '☃' and '☂'"
