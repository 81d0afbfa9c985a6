"""How answers and rationales are scored. Every score comes with a 95 % interval.

Metric functions take two positional arguments, targets and predictions, and return plain floats. Where a task is
registered, they get the names of arguments by which SeqIO recognises them.
"""

import dataclasses
import functools
import hashlib
import inspect
import os
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from distill.tasks import arithmetic
from distill.tasks.records import Record
from distill.validation import quoted

AnswerKind = Literal["text", "choice", "equation"]
ANSWER_KINDS: tuple[AnswerKind, ...] = ("text", "choice", "equation")


@dataclasses.dataclass(frozen=True)
class Answer:
    """A target as the postprocessors hand it to the metrics.

    Attributes:
      text: the gold answer.
      choices: the row's options, or none.
    """

    text: str
    choices: tuple[str, ...] = ()


LOSS = "loss"


_OF_SEQIO = (("targets", "predictions"), ("targets", "scores"), ("targets", "predictions", "aux_values"))
"""The positional arguments by which SeqIO recognises a metric function, and passes them by name."""


def check_functions(argument: str, functions: Any, *, seqio: bool = False) -> None:
    """Raises TypeError unless ``functions`` is a list of functions of two positional arguments.

    Args:
      argument: its name, for the message.
      functions: the value.
      seqio: whether SeqIO's form ``(targets, predictions, aux_values)`` is accepted, too, which only SeqIO's own evaluation
        computes.

    >>> check_functions("metrics", len)
    Traceback (most recent call last):
    TypeError: metrics must be a list of functions, fn(targets, predictions) -> {name: value}; got len (no list)
    """
    wanted = f"{argument} must be a list of functions, fn(targets, predictions) -> {{name: value}}"
    if not isinstance(functions, list | tuple):
        raise TypeError(f"{wanted}; got {name_of(functions) if callable(functions) else quoted(functions)} (no list)")
    for number, one in enumerate(functions):
        if not callable(one):
            raise TypeError(f"{wanted}; got {quoted(one)} ({type(one).__name__}) as {argument}[{number}]")
        if not _takes_two(one) and not (seqio and _positional(one) == _OF_SEQIO[-1]):
            raise TypeError(
                f"{argument}[{number}] must take two positional arguments, fn(targets, predictions); got "
                f"{name_of(one)}{inspect.signature(one)}; give further arguments a default, or bind them with "
                "functools.partial"
            )


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with two positional arguments; a signature that cannot be read counts as such."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _positional(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """The arguments without default that may be passed by position and by name, as SeqIO finds them."""
    try:
        found = inspect.signature(function).parameters.values()
    except ValueError:
        return None
    return tuple(one.name for one in found if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD)


def for_seqio(function: Callable[..., Any]) -> Callable[..., Any]:
    """A metric function as SeqIO recognises it: itself, or a function of its name with ``(targets, predictions)``.

    >>> def length(gold, answers):
    ...     return {"length": len(answers)}
    >>> for_seqio(length).__name__, str(inspect.signature(for_seqio(length)))
    ('length', '(targets, predictions)')
    """
    if _positional(function) in _OF_SEQIO:
        return function

    def adapted(targets, predictions):  # type: ignore[no-untyped-def]
        return function(targets, predictions)

    adapted.__name__ = adapted.__qualname__ = name_of(function)
    adapted.__module__ = getattr(function, "__module__", None) or type(function).__module__
    return adapted


def name_of(function: Any) -> str:
    """The name of a metric function, in messages and in ``student.json``."""
    inner = function.func if isinstance(function, functools.partial) else function
    return getattr(inner, "__name__", type(inner).__name__)


def computed(
    functions: Iterable[Callable[..., Any]], targets: Sequence[Any], predictions: Sequence[str]
) -> dict[str, float]:
    """The values of several metric functions by name.

    Raises:
      TypeError: a function returns something other than a mapping of names to numbers.
      ValueError: two functions return the same name, or a function of the user raises an error.

    >>> computed([text_accuracy, lambda targets, predictions: {"accuracy": 1}], ["a"], ["a"])
    Traceback (most recent call last):
    ValueError: metric <lambda> returns 'accuracy', a name that text_accuracy returns, too; give the value another name
    """
    found: dict[str, float] = {}
    source: dict[str, str] = {}
    for function in functions:
        name = name_of(function)
        values = _called(function, targets, predictions)
        wanted = f"metric {name} must return numbers by name, such as {{'length': 2.5}}"
        if not isinstance(values, Mapping):
            raise TypeError(f"{wanted}; got {quoted(values)} ({type(values).__name__})")
        for key, value in values.items():
            if not isinstance(key, str):
                raise TypeError(f"{wanted}; got the name {quoted(key)} ({type(key).__name__})")
            if key in found:
                raise ValueError(
                    f"metric {name} returns {key!r}, a name that {source[key]} returns, too; give the value another name"
                )
            try:
                if isinstance(value, str | bytes):
                    raise TypeError
                found[key], source[key] = float(value), name
            except (TypeError, ValueError):
                raise TypeError(f"{wanted}; got {key!r}: {quoted(value)} ({type(value).__name__})") from None
    return found


def _called(function: Callable[..., Any], targets: Sequence[Any], predictions: Sequence[str]) -> Any:
    """What a metric function returns. Errors of the user's own functions name the function and the line."""
    try:
        return function(targets, predictions)
    except Exception as error:
        if getattr(function, "__module__", None) == __name__:
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"metric {name_of(function)} failed at line {at.lineno} of {os.path.basename(at.filename)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def higher_is_better(metric: str) -> bool:
    """Whether the largest value of a metric is the best: of all metrics except ``loss``.

    >>> higher_is_better("accuracy"), higher_is_better("loss")
    (True, False)
    """
    return metric != LOSS


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Returns Wilson's 95 % score interval for a share of ``correct`` out of ``total``; ``(0, 1)`` for ``total`` = 0.

    Wilson, E. B. (1927), "Probable inference, the law of succession, and statistical inference", JASA 22.

    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    if total == 0:
        return 0.0, 1.0
    if not 0 <= correct <= total:
        raise ValueError(f"correct must be between 0 and total; got {correct=} {total=}")
    from scipy import stats  # its import takes about a second

    interval = stats.binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def share(name: str, correct: int, total: int) -> dict[str, float]:
    """``name``, ``name_low`` and ``name_high`` of a share; NaN, 0 and 1 if the total is 0."""
    low, high = wilson(correct, total)
    return {name: correct / total if total else float("nan"), f"{name}_low": low, f"{name}_high": high}


_LETTER = re.compile(r"^\(\s*([A-Za-z])\s*\)\s*")


def same_text_key(text: str) -> str:
    """A key that ignores case and white space.

    >>> same_text_key("  Washington   D.C. ")
    'washington d.c.'
    """
    return " ".join(text.casefold().split())


def input_key(text: str) -> int:
    """A hash by which inputs are compared, without case and white space; the same in every process.

    >>> input_key("What is  this?") == input_key("what is this? ")
    True
    """
    # 64 bits: two different inputs are not expected to share one.
    digest = hashlib.blake2b(same_text_key(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def normalise_text(text: str) -> str:
    """Case folded, white space collapsed, without a final period.

    >>> normalise_text("  Washington   D.C. ")
    'washington d.c'
    """
    return same_text_key(text).removesuffix(".").rstrip()


def match_choice(text: str, choices: Sequence[str]) -> str | None:
    """Which of the row's choices ``text`` names, or None.

    Tried in this order: the exact text; the normalised text; the text after an option letter, "(c) train station"; the
    letter alone, "(c)" or "c". A letter in front of text that is not its choice does not count.

    >>> match_choice("(B) Rug.", ("carpet", "rug"))
    'rug'
    """
    if text in choices:
        return text
    normalised = [normalise_text(choice) for choice in choices]

    def find(candidate: str) -> str | None:
        candidate = normalise_text(candidate)
        return choices[normalised.index(candidate)] if candidate in normalised else None

    found = find(text)
    if found is not None:
        return found
    lettered = _LETTER.match(text.strip())
    rest = text.strip()[lettered.end() :] if lettered else ""
    if rest.strip(" ."):
        return find(rest)
    letter = lettered[1] if lettered else text.strip().removesuffix(".")
    index = ord(letter.lower()) - ord("a") if len(letter) == 1 else -1
    return choices[index] if 0 <= index < len(choices) else None


def same_text(a: str, b: str) -> bool:
    """Equal after :func:`normalise_text`, and not empty."""
    return bool(a.strip()) and normalise_text(a) == normalise_text(b)


def same_answer(kind: AnswerKind, target: str, prediction: str, choices: Sequence[str] = ()) -> bool:
    """Whether ``prediction`` is right.

    Args:
      kind: ``text``: same normalised text. ``choice``: both name the same choice (as text where the row has no choices).
        ``equation``: both have the same value.
      target, prediction: answers.
      choices: the row's options.

    Raises:
      ValueError: unknown kind.
    """
    if kind not in ANSWER_KINDS:
        raise ValueError(f"answer kind must be one of {', '.join(ANSWER_KINDS)}; got {kind!r}")
    if kind == "equation":
        return arithmetic.same_value(target, prediction)
    if kind == "choice" and choices:
        named = match_choice(prediction, choices)
        return named is not None and named == match_choice(target, choices)
    return same_text(target, prediction)


def _answers(targets: Iterable[Any]) -> list[Answer]:
    return [target if isinstance(target, Answer) else Answer(str(target)) for target in targets]


def _check_lengths(targets: Sequence[Any], predictions: Sequence[Any]) -> None:
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions")


def _accuracy(kind: AnswerKind, targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    _check_lengths(targets, predictions)
    answers = _answers(targets)
    right = sum(
        same_answer(kind, answer.text, prediction, answer.choices) for answer, prediction in zip(answers, predictions)
    )
    exact = sum(answer.text == prediction for answer, prediction in zip(answers, predictions))
    total = len(answers)
    return share("accuracy", right, total) | {"accuracy_exact": exact / total if total else float("nan")}


def text_accuracy(targets: Sequence[Answer | str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions equal to the target up to case, white space and a final period.

    Args:
      targets: :class:`Answer` or plain strings.
      predictions: strings.

    Returns:
      ``accuracy``, ``accuracy_low``, ``accuracy_high`` (Wilson, 95 %), and ``accuracy_exact``, which counts
      identical strings only, as the paper's code does.
    """
    return _accuracy("text", targets, predictions)


def choice_accuracy(targets: Sequence[Answer | str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions that name the target's choice (:func:`match_choice`); returns as :func:`text_accuracy`."""
    return _accuracy("choice", targets, predictions)


def equation_accuracy(targets: Sequence[Answer | str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions with the target's value; returns as :func:`text_accuracy`.

    Adds ``has_value``: the share of predictions that are arithmetic at all.
    """
    result = _accuracy("equation", targets, predictions)
    valued = sum(arithmetic.evaluate(prediction) is not None for prediction in predictions)
    return result | {"has_value": valued / len(predictions) if len(predictions) else float("nan")}


ACCURACY: Mapping[AnswerKind, Callable[..., dict[str, float]]] = {
    "text": text_accuracy,
    "choice": choice_accuracy,
    "equation": equation_accuracy,
}


def _bootstrap(values: Sequence[float], resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    import numpy as np

    data = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = [data[rng.integers(0, len(data), len(data))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def rouge_l(targets: Sequence[Answer | str], predictions: Sequence[str]) -> dict[str, float]:
    """Mean ROUGE-L F1 with stemming, in [0, 1]; ``rouge_l_low`` and ``_high`` by a seeded bootstrap over examples.

    Lin, C.-Y. (2004), "ROUGE: a package for automatic evaluation of summaries"; computed by ``rouge_score``.
    """
    from rouge_score import rouge_scorer

    _check_lengths(targets, predictions)
    if not len(predictions):
        return {"rouge_l": float("nan"), "rouge_l_low": 0.0, "rouge_l_high": 1.0}
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    scores = [
        scorer.score(answer.text, prediction)["rougeL"].fmeasure
        for answer, prediction in zip(_answers(targets), predictions)
    ]
    low, high = _bootstrap(scores)
    return {"rouge_l": sum(scores) / len(scores), "rouge_l_low": low, "rouge_l_high": high}


def bleu(targets: Sequence[Answer | str], predictions: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU in [0, 100]; ``bleu_low`` and ``bleu_high`` by sacreBLEU's bootstrap.

    Post, M. (2018), "A call for clarity in reporting BLEU scores".
    """
    import sacrebleu

    _check_lengths(targets, predictions)
    if not len(predictions):
        return {"bleu": float("nan"), "bleu_low": 0.0, "bleu_high": 100.0}
    references = [[answer.text for answer in _answers(targets)]]
    score = sacrebleu.metrics.BLEU().corpus_score(list(predictions), references, n_bootstrap=1000)
    half = float(score._ci) if score._ci is not None else 0.0
    mean = float(score._mean) if score._mean is not None else float(score.score)
    clip = lambda value: min(100.0, max(0.0, float(value)))  # noqa: E731
    return {"bleu": clip(score.score), "bleu_low": clip(mean - half), "bleu_high": clip(mean + half)}


def teacher_accuracy(records: Iterable[Record], kind: AnswerKind) -> dict[str, float]:
    """How often the teacher's label is right: over all rows with a gold label; a missing teacher label counts as wrong.

    Returns:
      ``teacher_accuracy`` with interval, and ``rows``.
    """
    total = right = 0
    for record in records:
        if record.label is None:
            continue
        total += 1
        right += record.llm_label is not None and same_answer(kind, record.label, record.llm_label, record.choices)
    return share("teacher_accuracy", right, total) | {"rows": total}
