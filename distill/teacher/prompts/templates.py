"""Few-shot prompts in YAML files: reading and validation.

A prompt is a YAML file::

    parser: cqa                  # parser of the replies: one of tasks.parsers.NAMES; omit to parse by the template
    instructions: …              # text at the beginning
    question: "Q: {input}\\nA:"   # one block; placeholders are filled per row
    answer: "{rationale} So the answer is {label}."
    rationalise: "Q: {input}\\nThe right answer is {label}. Why?\\nA:"   # optional: the block that gives the answer
    hint_words: [right answer]   # optional: words that reveal that the answer was given
    parts: {separator: "</s>", names: [premise, hypothesis]}            # optional: placeholders for the parts of the input
    examples:
      - {input: …, rationale: …, label: …}

Placeholders are ``{input}`` (or the parts' names) and ``{choices}`` (lettered, one per line) in questions, and
``{rationale}`` and ``{label}`` in answers; ``{{`` and ``}}`` are braces. A row's text is inserted unchanged and not
searched for placeholders. If a line of a row's text begins like a block of the template, the line is indented by a space,
so that no row can end its block and begin another.
"""

import importlib.resources
import pathlib
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from distill import validation, yaml_loading
from distill.teacher.prompts import parsing
from distill.teacher.prompts.prompt import SEPARATOR, Example, InputShapeError, Parts, Prompt, PromptError

__all__ = ["SEPARATOR", "Example", "InputShapeError", "Parts", "Prompt", "PromptError", "load", "names", "parse"]

_LONGEST_FILE = 1_000_000  # characters
_KEYS = ("parser", "instructions", "question", "answer", "rationalise", "hint_words", "parts", "examples")


def names() -> tuple[str, ...]:
    """Names of the shipped prompts."""
    folder = importlib.resources.files("distill.teacher.prompts")
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def source(name: str) -> str:
    """The YAML text of a shipped prompt, to copy and change.

    Raises:
      PromptError: there is no such prompt; similar names are suggested.
    """
    known = names()
    if name not in known:
        hint = validation.did_you_mean(name, known)
        raise PromptError(f"no shipped prompt {name!r}{hint} (shipped prompts: {', '.join(known)})")
    return (importlib.resources.files("distill.teacher.prompts") / f"{name}.yaml").read_text(encoding="utf-8")


def load(name: str | pathlib.Path) -> Prompt:
    """Reads and checks a prompt.

    Args:
      name: one of :func:`names`, or a path to a YAML file.

    Raises:
      PromptError: the prompt does not exist (similar names are suggested), or the file is invalid.
    """
    known = names()
    if str(name) in known:
        return parse(source(str(name)), str(name))
    path = pathlib.Path(name)
    if not path.is_file():
        hint = validation.did_you_mean(str(name), known)
        raise PromptError(f"no prompt file {str(name)!r}{hint} (shipped prompts: {', '.join(known)})")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not UTF-8 ({error})") from None
    return parse(text, path.name)


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', '')}"


def parse(text: str, name: str) -> Prompt:
    """The prompt in a YAML text.

    Raises:
      PromptError: see :class:`Prompt`.
    """
    if len(text) > _LONGEST_FILE:
        raise PromptError(f"{name}: {len(text):,} characters; a prompt file has at most {_LONGEST_FILE:,}")
    loader = None
    try:
        loader = yaml_loading.Loader(text)
        value = loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise PromptError(f"{name}: not YAML: {_one_line(error)}") from None
    except RecursionError:
        raise PromptError(f"{name}: nested too deeply for a prompt") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(value, dict):
        raise PromptError(f"{name}: expected a mapping with {', '.join(_KEYS)}; got {type(value).__name__}")
    _check_keys(name, value, _KEYS, required=("question", "answer", "examples"))
    parts = value.get("parts")
    if parts is not None:
        if not isinstance(parts, dict):
            raise PromptError(f"{name}: parts: expected a mapping with separator and names; got {type(parts).__name__}")
        _check_keys(f"{name}: parts", parts, ("separator", "names"), required=("separator", "names"))
        parts = Parts(_text(f"{name}: parts", parts, "separator"), _texts(f"{name}: parts", parts, "names"))
    examples = value["examples"]
    if not isinstance(examples, list) or not examples:
        raise PromptError(f"{name}: examples: expected a list with at least one worked example")
    prompt = Prompt(
        name=name,
        question=_text(name, value, "question"),
        answer=_text(name, value, "answer"),
        examples=tuple(_example(f"{name}: example {n}", row) for n, row in enumerate(examples, start=1)),
        instructions=_text(name, value, "instructions") if "instructions" in value else "",
        rationalise=_text(name, value, "rationalise") if "rationalise" in value else "",
        parser=_text(name, value, "parser") if "parser" in value else "",
        hint_words=_texts(name, value, "hint_words"),
        parts=parts,
    )
    for number, example in enumerate(prompt.examples, start=1):
        try:
            prompt.fill_question(example.input, example.choices)
        except InputShapeError as error:
            raise PromptError(f"{name}: example {number}: {error}") from None
    check_examples(prompt)
    return prompt


def check_examples(prompt: Prompt) -> None:
    """Checks that the parser recovers rationale and label from every worked example's answer.

    Raises:
      PromptError: it does not, so replies that imitate the example could not be parsed either.
    """
    for number, example in enumerate(prompt.examples, start=1):
        reply = prompt.fill_answer(example.rationale, example.label)
        parsed = parsing.read_text(prompt, reply, example.choices)
        trouble = parsed.failed or parsed.undecided
        if trouble or parsed.rationale != example.rationale.strip():
            raise PromptError(
                f"{prompt.name}: example {number}: {prompt.parser or 'the template'!r} does not parse its answer back: "
                f"{trouble or 'another rationale'} in {reply!r}"
            )


def _example(where: str, row: Any) -> Example:
    if not isinstance(row, dict):
        raise PromptError(f"{where}: expected input, rationale and label; got {reprlib.repr(row)}")
    _check_keys(where, row, ("input", "rationale", "label", "choices"), required=("input", "rationale", "label"))
    return Example(
        input=_text(where, row, "input").strip(),
        rationale=_text(where, row, "rationale").strip(),
        label=_text(where, row, "label").strip(),
        choices=_texts(where, row, "choices"),
    )


def _check_keys(where: str, value: Mapping[Any, Any], known: Sequence[str], *, required: Sequence[str]) -> None:
    for key in value:
        if key not in known:
            hint = validation.did_you_mean(str(key), known)
            raise PromptError(f"{where}: unknown entry {key!r}{hint} (known: {', '.join(known)})")
    for key in required:
        if key not in value:
            raise PromptError(f"{where}: the entry {key!r} is missing")


def _text(where: str, value: Mapping[str, Any], key: str) -> str:
    text = value[key]
    if isinstance(text, bool | int | float):
        raise PromptError(f"{where}: {key}: YAML reads {text!r} as a {type(text).__name__}; put it in quotes")
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"{where}: {key}: expected text; got {reprlib.repr(text)}")
    return text


def _texts(where: str, value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = value.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise PromptError(f"{where}: {key}: expected a list of texts; got {reprlib.repr(texts)}")
    return tuple(texts)
