"""SeqIO's postprocessors: from texts to the answers that metrics compare."""

from typing import Any

from distill.tasks import metrics, preprocessors


def _text(value: Any) -> str:
    value = value.numpy() if hasattr(value, "numpy") else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _target(example: Any, marker: str | None, explanation: str) -> metrics.Answer:
    choices = example.get("choices", ())
    choices = choices.numpy() if hasattr(choices, "numpy") else choices
    label = _text(example["label"])
    if not label:  # no gold answer: the teacher's, which was learned
        text = _text(example["targets_pretokenized"])
        label = preprocessors.answer_of(text, marker, explanation) if marker else text
    return metrics.Answer(label, tuple(_text(choice) for choice in choices))


def answer_postprocessor(
    decoded: str,
    example: Any = None,
    is_target: bool = False,
    marker: str | None = None,
    explanation: str = preprocessors.EXPLANATION_MARKER,
) -> metrics.Answer | str:
    """SeqIO's postprocessor for labels: the target with the row's choices, or the answer in the model's text.

    Args:
      decoded: the target's or the model's text.
      example: the task's example; needed for targets.
      is_target: which of the two ``decoded`` is.
      marker: text that precedes the answer; None: the whole text is the answer.
      explanation: text that precedes a rationale after the answer.
    """
    if is_target:
        return _target(example, marker, explanation)
    return preprocessors.answer_of(decoded, marker, explanation) if marker else decoded


def rationale_postprocessor(decoded: str, example: Any = None, is_target: bool = False) -> Any:
    """SeqIO's postprocessor for rationales: the unchanged text."""
    return metrics.Answer(_text(example["targets_pretokenized"])) if is_target and example else decoded
