"""All rationales, one prefix per teacher, votes as soft labels, confidence and the order of the single task."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from distill.data.batches import BatchStream
from distill.data.packing import Layout
from distill.inference.evaluate import Evaluator
from distill.tasks import jsonl, metrics, registration, texts
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record, RowError
from distill.tasks.variants import Variants
from distill.training.losses import NORMALIZERS, TwoTaskLoss, task_token_weights

BYTES = seqio.ByteVocabulary()
PREFIXES = {"palm": "[rationale] ", "neox": "[why] "}
TWO = Record(
    id="two",
    input="q1",
    label="ab",
    llm_label="ab",
    rationales=("r1", "r22", "r333"),
    rationale_teachers=("palm", "neox", "neox"),
    label_votes=(("ab", 3), ("wxyz", 1)),
)
PLAIN = Record(id="plain", input="q2", label="no", llm_label="no", weight=0.5)
ROWS = [TWO, PLAIN]


def register(name="variants", rows=ROWS, several=True, **options):
    source = lambda split: iter(rows)  # noqa: E731
    source.splits = ("train", "test")
    return registration.register(
        Dataset(name, source, validation_fraction=0.0, several_rationales=several), BYTES, **options
    )


def sequences(name, split="train"):
    """(input, target, weights) of every present sequence, in order."""
    found = []
    for example in registration.get(name).get_dataset(None, split=split, shuffle=False, seed=0).as_numpy_iterator():
        for kind in ("", "rationale_"):
            if f"{kind}targets" in example and len(example[f"{kind}targets"]):
                inputs = example.get(f"{kind}inputs", example["inputs"])
                target = BYTES.decode(example[f"{kind}targets"].tolist())
                found.append((BYTES.decode(inputs.tolist()), target, example[f"{kind}targets_weights"].tolist()))
    return found


def test_all_rationales_share_the_weight_of_their_row():
    names = register(rationales="all")
    thirds = [(f"r{text}", 1 / 3) for text in ("1", "22", "333")]
    found = [(target, weights[0]) for _, target, weights in sequences(names.rationale)]
    assert found == [(text, pytest.approx(share)) for text, share in thirds]
    assert [text for _, text, _ in sequences(names.label)] == ["ab", "no"]
    assert [text for _, text, _ in sequences(names.paired)] == ["ab", "r1", "r22", "r333", "no"]
    single = sequences(names.single)
    assert [text for _, text, _ in single] == [
        *(f"{text} So the answer is ab" for text, _ in thirds),
        "So the answer is no",
    ]
    assert [weights[-1] for *_, weights in single] == [pytest.approx(1 / 3)] * 3 + [0.5]
    assert [text for _, text, _ in sequences(names.rationale, "test")] == ["r1"]  # evaluation has one row per record
    assert not registration.draws_at_random(names.paired, "train")
    assert registration.get(names.paired).source.num_input_examples("train") == 2
    few = register(rationales="all", max_rationales=2)
    assert [text for _, text, _ in sequences(few.rationale)] == ["r1", "r22"]


@pytest.mark.parametrize("normalizer", NORMALIZERS[:2])
def test_lambda_does_not_depend_on_the_number_of_rationales(normalizer):
    totals = {}
    for rationales in ("first", "all"):
        stream = BatchStream(register(rationales=rationales).paired, Layout(8, 32, 32), shuffle=False)
        arrays = next(stream).arrays
        weights = task_token_weights(
            jnp.asarray(arrays["decoder_loss_weights"]),
            jnp.asarray(arrays["decoder_task_ids"]),
            TwoTaskLoss(lam=0.5).coefficients(jnp.int32(0)),
            normalizer,
            jnp.asarray(arrays["decoder_segment_ids"]),
        )
        totals[rationales] = [
            float(weights.sum(where=jnp.asarray(arrays["decoder_task_ids"] == task))) for task in (1, 2)
        ]
    np.testing.assert_allclose(totals["all"], [1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(totals["all"], totals["first"], rtol=1e-6)


def test_each_teacher_has_its_prefix_and_weight():
    names = register(rationales="all", teacher_prefixes=PREFIXES, teacher_weights={"neox": 0.5})
    found = [(prompt, target, weights[0]) for prompt, target, weights in sequences(names.rationale)]
    sixth = pytest.approx(1 / 6)
    assert found == [
        ("[rationale] q1", "r1", pytest.approx(1 / 3)), ("[why] q1", "r22", sixth), ("[why] q1", "r333", sixth),
    ]  # fmt: skip
    shared = [(prompt, target) for prompt, target, _ in sequences(names.shared)]
    assert shared[:4] == [("q1", "[label] ab"), ("q1", "[rationale] r1"), ("q1", "[why] r22"), ("q1", "[why] r333")]
    weights = {target: weights for _, target, weights in sequences(names.shared)}
    assert weights["[why] r22"] == [0.0] * len("[why] ") + [sixth] * 4
    drawn = register(rationales="draw", teacher_prefixes=PREFIXES)
    epochs = registration.get(drawn.rationale).get_dataset(None, split="train", shuffle=False, seed=0, num_epochs=12)
    seen = [
        (row["inputs_pretokenized"].decode(), row["targets_pretokenized"].decode())
        for row in epochs.as_numpy_iterator()
    ]
    assert len(seen) == 12 and set(seen) == {("[rationale] q1", "r1"), ("[why] q1", "r22"), ("[why] q1", "r333")}


def test_soft_labels_are_the_cross_entropy_with_the_votes():
    """The loss Σ w · CE of whole label sequences has its minimum where their probabilities are the votes."""
    names = register(soft_labels=True, label_source="teacher")
    labels = sequences(names.label)
    assert [(target, weights) for _, target, weights in labels] == [
        ("ab", [0.75] * 3), ("wxyz", [0.25] * 5), ("no", [0.5] * 3),
    ]  # fmt: skip
    assert [text for _, text, _ in sequences(names.label, "test")] == ["ab", "no"]
    arrays = next(BatchStream(names.label, Layout(3, 16, 8, packed=False), shuffle=False)).arrays
    ids, targets = (jnp.asarray(arrays[f"decoder_{name}"]) for name in ("task_ids", "target_tokens"))
    weights = task_token_weights(
        jnp.asarray(arrays["decoder_loss_weights"]), ids, TwoTaskLoss().coefficients(jnp.int32(0))
    )
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(*ids.shape, 384)).astype(np.float32))
    tokens = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
    log_p = np.array(jnp.sum(tokens, axis=1, where=ids > 0))  # of each whole label
    votes, lengths, rows = np.array([0.75, 0.25, 1.0]), np.array([3, 5, 3]), np.array([1.0, 1.0, 0.5])
    expected = (
        -(rows * votes * log_p).sum() / (rows * votes * lengths).sum()
    )  # Σ rows · H(votes, p), per expected token
    np.testing.assert_allclose(-jnp.sum(weights * tokens), expected, rtol=1e-5)
    # A student that decides between the two labels at their first token, with the probabilities softmax(θ):
    first = weights[:2, 0]
    gradient = jax.grad(lambda theta: -jnp.sum(first * jax.nn.log_softmax(theta)))
    np.testing.assert_allclose(gradient(jnp.log(jnp.array([0.75, 0.25]))), 0.0, atol=1e-7)
    assert abs(float(gradient(jnp.zeros(2))[0])) > 1e-3
    even = register(soft_labels=True, label_source="teacher", soft_label_temperature=2.0)
    root = np.sqrt([0.75, 0.25])
    np.testing.assert_allclose([weights[0] for *_, weights in sequences(even.label)][:2], root / root.sum(), rtol=1e-6)


def test_confidence_is_the_largest_vote_share():
    for task, expected in (("label", [0.75, 1.0]), ("rationale", [1.0, 0.75]), ("both", [0.75, 0.75])):
        first = sequences(register(rationales="first", confidence=task).paired)[:2]
        assert [weights[0] for *_, weights in first] == expected
    test = sequences(register(rationales="first", confidence="both").paired, "test")
    assert [weights[0] for *_, weights in test] == [1.0, 1.0, 0.5]


def test_the_single_task_answers_first():
    names = register(rationales="first", single_order="label_first")
    (_, target, _), (_, bare, _) = sequences(names.single)
    assert (target, bare) == ("So the answer is ab Explanation: r1", "So the answer is no")
    task = registration.get(names.single)
    (first, _) = task.get_dataset(None, split="train", shuffle=False).as_numpy_iterator()
    ids = first["targets_task_ids"]
    assert BYTES.decode(first["targets"][ids == 1].tolist()) == "So the answer is ab"
    assert BYTES.decode(first["targets"][ids == 2].tolist()) == " Explanation: r1"
    assert first["targets"][-1] == 1 and ids[-1] == 2
    assert task.postprocess_fn(target, example=first, is_target=True) == metrics.Answer("ab")
    for text, answer in (
        (target, "ab"),
        ("So the answer is ab", "ab"),
        ("So the answer is\nab Explanation: it is c. So the answer is c", "ab"),
        ("Explanation: none. So the answer is ab", "ab"),
        ("nothing", ""),
    ):
        assert texts.answer_of(text) == answer


def test_decoding_may_end_after_the_label():
    names = register(rationales="first", single_order="label_first")
    evaluator = Evaluator(names.single, "test", lambda *_: [])
    label = len("So the answer is ab")
    assert evaluator.check_lengths(label + 1) is None  # the row without a rationale ends in EOS
    assert "1 of 2 targets" in evaluator.check_lengths(label)
    with pytest.raises(ValueError, match="all 2 targets"):
        evaluator.check_lengths(label - 1)


def test_streams_of_variants_continue_exactly():
    name = register(rationales="all", soft_labels=True, label_source="teacher", teacher_prefixes=PREFIXES).paired
    layout = Layout(1, 32, 32)
    stream = BatchStream(name, layout, seed=4)
    wanted = [next(stream) for _ in range(9)]
    again = BatchStream(name, layout, seed=4)
    again.restore(json.loads(json.dumps(wanted[3].position)))
    for batch in wanted[4:]:
        for key, value in next(again).arrays.items():
            np.testing.assert_array_equal(value, batch.arrays[key])


def test_without_switches_rows_and_settings_are_as_before():
    names = register()
    source = registration.get(names.label).source
    assert source.selection.variants is None
    assert "selection.variants.class" not in registration.settings_of(names.label)
    assert "single_order" not in registration.settings_of(names.label)
    changed = registration.settings_of(register(rationales="all").label)
    assert changed["selection.variants.all_rationales"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft_labels": True}, "soft_labels are the teacher's votes; they need label_source='teacher', got 'gold'"),
        ({"max_rationales": 0}, "max_rationales must be ≥ 1 or None; got 0"),
        ({"rationales": "every"}, "rationales must be 'auto', 'first', 'draw' or 'all'; got 'every'"),
        ({"confidence": "row"}, "confidence must be 'label', 'rationale', 'both' or None; got 'row'"),
        ({"single_order": "both"}, "single_order must be 'rationale_first' or 'label_first'; got 'both'"),
        ({"teacher_weights": {"neox": -1.0}}, r"teacher_weights\['neox'\] must be a finite number ≥ 0; got -1"),
        ({"teacher_prefixes": {"palm": "[a] "}}, "rationale_prefix must be one of teacher_prefixes"),
        ({"teacher_prefixes": {"palm": "[rationale] ", "neox": "[rationale] "}}, "teacher_prefixes must be distinct"),
        (
            {"soft_labels": True, "label_source": "teacher", "soft_label_temperature": 0.0},
            "temperature must be a finite",
        ),
        ({"key_tokens": "all"}, "key_tokens must be one of 'row', 'label', 'numbers' or None; got 'all'"),
    ],
)
def test_settings_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        register(**options)


def test_forms_that_a_switch_does_not_fit_are_refused_by_name():
    names = register(soft_labels=True, label_source="teacher", teacher_prefixes=PREFIXES)
    with pytest.raises(ValueError, match="soft_labels has no effect on FORM=single"):
        sequences(names.single)
    with pytest.raises(ValueError, match="FORM=shared_rationale has one prefix for all rows"):
        sequences(names.shared_rationale)
    unknown = [Record(id="x", input="q", label="a", rationales=("r",))]
    with pytest.raises(ValueError, match="row 'x' does not name the teacher of its 1 rationales"):
        sequences(register(rows=unknown, teacher_prefixes=PREFIXES).rationale)
    with pytest.raises(ValueError, match="teacher_prefixes has no 'neox', only 'palm'"):
        sequences(register(teacher_prefixes={"palm": "[rationale] "}).rationale)
    # Rows that are only evaluated need no teacher's name: a data set may have other rationales there.
    assert sequences(register(rows=unknown, teacher_prefixes=PREFIXES).rationale, "test")[0][0] == "[rationale] q"


def test_the_fields_of_json_lines(tmp_path):
    rows = [
        {"input": "q0", "rationales": {"palm": "a", "neox": ["b", "c"]}, "label_votes": {"x": 3, "y": 1}},
        {"input": "q1", "rationales": ["a", "b"], "rationale_teachers": ["palm", "neox"], "key_phrases": ["a"]},
        {"input": "q2", "rationales": ["a", "b"], "provenance": {"rationales_by": [["palm", 0], ["palm", 1]]}},
        {"input": "q3", "label_log_probs": {"A": -0.5, "B": -0.5}, "choices": ["one", "two"]},
        {"input": "q4", "rationales": ["a", "b"], "rationale_teachers": ["palm"]},
        {"input": "q5", "label_votes": {"x": -1}},
        {"input": "q6", "label_votes": 3},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"rationale_teachers": "rationale_teachers"}
    for given, number in ((None, 5), (fields, 4)):
        dataset = jsonl.dataset({"train": tmp_path / "rows.jsonl"}, fields=given, validation_fraction=0.0)
        records = {record.input: record for record in dataset.records("train")}
        assert records["q0"].rationale_teachers == ("palm", "neox", "neox")
        assert records["q0"].label_votes == (("x", 0.75), ("y", 0.25))
        assert records["q3"].label_votes == (("one", 0.5), ("two", 0.5))
        assert len(records) == number and "q5" not in records and "q6" not in records
    assert records["q1"].rationale_teachers == ("palm", "neox") and records["q1"].key_phrases == ("a",)
    assert records["q2"].rationale_teachers == ("palm", "palm")
    assert "q4" not in records
    with pytest.raises(RowError, match="must name one teacher per rationale; got 1 for 2"):
        Record(id="x", input="q", rationales=("a", "b"), rationale_teachers=("palm",))
    assert Record(id="x", input="q", rationales=("a", " "), rationale_teachers=("p", "n")).rationale_teachers == ("p",)


def test_variants_that_change_nothing_are_none():
    assert registration.get(register(soft_label_temperature=3.0).label).source.selection.variants is None
    assert Variants() == Variants(all_rationales=False)
