import functools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.tasks import metrics
from distill.tasks.metrics import Answer
from distill.tasks.records import Record

CHOICES = ("train station", "Bridge", "washington d.c.")


def test_wilson_against_published_values():
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20.
    for correct, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        assert metrics.wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000), st.data())
def test_wilson_contains_the_share_and_stays_in_bounds(total, data):
    correct = data.draw(st.integers(0, total))
    low, high = metrics.wilson(correct, total)
    assert 0 <= low <= correct / total + 1e-12 and correct / total - 1e-12 <= high <= 1


def test_wilson_of_nothing_and_of_nonsense():
    assert metrics.wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="correct must be between 0 and total"):
        metrics.wilson(3, 2)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Bridge", "Bridge"),
        ("bridge.", "Bridge"),
        ("  Train   Station ", "train station"),
        ("Washington D.C.", "washington d.c."),
        ("Washington D.C", "washington d.c."),
        ("(b) bridge", "Bridge"),
        ("(b) train station", "train station"),
        ("(c)", "washington d.c."),
        ("C.", "washington d.c."),
        ("(d)", None),
        ("(b) river", None),
        ("river", None),
        ("", None),
    ],
)
def test_match_choice(text, choice):
    assert metrics.match_choice(text, CHOICES) == choice


def test_a_choice_that_is_a_letter_is_itself():
    assert metrics.match_choice("b", ("b", "a")) == "b"


def test_keys_of_inputs_are_the_same_in_every_process():
    assert metrics.input_key("What is  this?") == -2199555232314592767  # Python's own hash is of one process
    assert (
        metrics.input_key("what is this? ") == metrics.input_key("What is  this?") != metrics.input_key("What is it?")
    )
    metrics.input_key("\ud800")  # half of a character


def test_text_accuracy_forgives_what_the_papers_does_not():
    targets = [Answer("entailment"), "neutral", "contradiction", "neutral"]
    result = metrics.text_accuracy(targets, ["Entailment.", "neutral", "neutral", ""])
    assert result["accuracy"] == 0.5
    assert result["accuracy_exact"] == 0.25
    assert (result["accuracy_low"], result["accuracy_high"]) == pytest.approx(metrics.wilson(2, 4))


def test_empty_predictions_are_wrong_even_where_the_target_is_empty():
    assert metrics.text_accuracy([""], [""])["accuracy"] == 0


def test_choice_accuracy_uses_the_rows_choices():
    targets = [Answer("Bridge", CHOICES), Answer("train station", CHOICES), Answer("Bridge", CHOICES)]
    result = metrics.choice_accuracy(targets, ["(b) bridge.", "(a)", "river"])
    assert result["accuracy"] == pytest.approx(2 / 3)


def test_equation_accuracy():
    targets = ["( 84.0 / 2.0 )", "( 3.0 + 4.0 )", "( 1.0 )", "( 2.0 )"]
    result = metrics.equation_accuracy(targets, ["(84 / 2)", "7", "9**9**9", "two"])
    assert result["accuracy"] == 0.5
    assert result["has_value"] == 0.5
    assert result["accuracy_low"] < 0.5 < result["accuracy_high"]


def test_unknown_kind_and_unequal_lengths():
    with pytest.raises(ValueError, match="answer kind must be one of"):
        metrics.same_answer("number", "1", "1")
    with pytest.raises(ValueError, match="2 targets but 1 predictions"):
        metrics.text_accuracy(["a", "b"], ["a"])


@pytest.mark.parametrize("metric", [metrics.text_accuracy, metrics.choice_accuracy, metrics.equation_accuracy])
def test_no_rows_are_not_an_accuracy(metric):
    assert math.isnan(metric([], [])["accuracy"])


def test_rouge_l():
    result = metrics.rouge_l(["the cat sat on the mat"] * 4, ["the cat sat on the mat", "the cat", "dogs", ""])
    # LCS of "the cat": precision 1, recall 2/6, F 0.5.
    assert result["rouge_l"] == pytest.approx((1 + 0.5) / 4)
    assert result["rouge_l_low"] <= result["rouge_l"] <= result["rouge_l_high"]
    assert result == metrics.rouge_l(["the cat sat on the mat"] * 4, ["the cat sat on the mat", "the cat", "dogs", ""])


def test_bleu():
    text = "There are seven seeds in each of the six beds."
    same = metrics.bleu([Answer(text)] * 3, [text] * 3)
    assert same["bleu"] == pytest.approx(100)
    assert same["bleu_high"] == pytest.approx(100)
    mixed = metrics.bleu([text] * 3, [text, "There are seven seeds.", "No idea at all about these beds"])
    assert 0 < mixed["bleu"] < 100
    assert mixed["bleu_low"] <= mixed["bleu"] <= mixed["bleu_high"]


def test_rationale_metrics_of_nothing():
    assert math.isnan(metrics.rouge_l([], [])["rouge_l"])
    assert math.isnan(metrics.bleu([], [])["bleu"])


def test_teacher_accuracy_counts_a_missing_label_as_wrong_and_skips_rows_without_gold():
    rows = [
        Record(id="1", input="q", label="Bridge", llm_label="bridge", choices=CHOICES),
        Record(id="2", input="q", label="Bridge", llm_label=None, choices=CHOICES),
        Record(id="3", input="q", label=None, llm_label="bridge", choices=CHOICES),
    ]
    result = metrics.teacher_accuracy(rows, "choice")
    assert result["teacher_accuracy"] == 0.5
    assert result["rows"] == 2


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (0.5, r"must return numbers by name, such as \{'length': 2.5\}; got 0.5 \(float\)"),
        ({"a": "0.5"}, r"got 'a': '0.5' \(str\)"),
        ({"a": None}, r"got 'a': None \(NoneType\)"),
        ({1: 0.5}, r"got the name 1 \(int\)"),
        ({"accuracy_low": 0.5}, "returns 'accuracy_low', a name that text_accuracy returns, too"),
    ],
)
def test_a_metric_that_returns_no_numbers_by_new_names(values, error):
    def own(targets, predictions):
        return values

    with pytest.raises((TypeError, ValueError), match=f"metric own .*{error}" if "returns" not in error else error):
        metrics.computed([metrics.text_accuracy, own], ["a"], ["a"])


def test_metrics_are_a_list_of_functions():
    metrics.check_functions("metrics", [max, metrics.bleu, lambda gold, answers, k=1: {}, lambda *both: {}])
    with pytest.raises(TypeError, match=r"metrics must be a list .*; got 'bleu' \(str\) as metrics\[1\]"):
        metrics.check_functions("metrics", [max, "bleu"])
    partial = functools.partial(metrics.share, "a")
    assert [metrics.name_of(one) for one in (metrics.bleu, partial, Answer("a"))] == ["bleu", "share", "Answer"]


def of_seqio(targets, predictions, aux_values):
    return {"aux": len(aux_values)}


@pytest.mark.parametrize("function", [len, lambda gold, answers, k: {}, lambda gold, *, answers: {}, of_seqio])
def test_metrics_take_two_positional_arguments(function):
    message = rf"label_metrics\[1\] must take two positional arguments, .*; got {metrics.name_of(function)}\("
    with pytest.raises(TypeError, match=message):
        metrics.check_functions("label_metrics", [max, function])
    if function is of_seqio:
        metrics.check_functions("label_metrics", [function], seqio=True)


def test_seqio_recognises_any_function_of_two_arguments_by_its_name():
    def scored(targets, scores):
        return {"scored": 1}

    assert [metrics.for_seqio(one) for one in (metrics.bleu, scored, of_seqio)] == [metrics.bleu, scored, of_seqio]

    def length(gold, answers, /, times=1):
        return {"length": times * len(answers)}

    partial = metrics.for_seqio(functools.partial(length, times=3))
    for one, value in ((metrics.for_seqio(length), 2), (partial, 6)):
        assert (metrics.name_of(one), one(targets=["a", "b"], predictions=["a", "c"])) == ("length", {"length": value})


def test_an_error_in_a_metric_names_the_metric_and_the_line():
    def mean(gold, answers):
        return {"mean": 1 / (len(answers) - len(gold))}

    for one in (mean, metrics.for_seqio(mean)):
        with pytest.raises(
            ValueError, match=r"metric mean failed at line \d+ of test_metrics\.py: ZeroDivision"
        ) as got:
            metrics.computed([one], ["a"], ["a"])
        assert isinstance(got.value.__cause__, ZeroDivisionError)
    with pytest.raises(ValueError, match=r"^1 targets but 2 predictions"):  # of ours
        metrics.computed([metrics.text_accuracy], ["a"], ["a", "b"])
