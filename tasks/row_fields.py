"""Values of a row of JSON: by name, by path into nested objects, or by a template; and conversion to texts."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill.counting import counted
from distill.tasks import reply_text
from distill.tasks.records import RowError, check_text, is_blank, shown

MOST_NAMES = 200
"""As many fields of a file's rows are named in a message."""

_LONGEST_NAME = 100
_HOLE = re.compile(r"\{([\w.]+)\}")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def text(value: Any, name: str) -> str:
    """``value`` as text: a text itself, a number, or ``true`` and ``false``.

    Raises:
      RowError: it is something else, not finite, or cannot be encoded.
    """
    if isinstance(value, str):
        return check_text(value, name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        try:
            return str(value)
        except ValueError as error:
            raise RowError(f"{name} is a number of too many digits") from error
    if isinstance(value, Mapping) and value:
        inside = sorted(map(str, value))
        raise RowError(
            f"{name} is not text but an object with {shown(', '.join(inside))}; name one of its fields, as in "
            f"FIELD.{inside[0]}"
        )
    raise RowError(f"{name} is not text but {value if isinstance(value, float) else type(value).__name__}")


def texts(value: Any, name: str) -> tuple[str, ...]:
    """One text or a list of texts as a tuple; None is none. Raises RowError as :func:`text`."""
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    return tuple(text(item, name) for item in values if item is not None)


def fields_in(name: str) -> list[str]:
    """The fields that a name, path or template reads.

    >>> fields_in("{question.stem} {choices}"), fields_in("label")
    (['question.stem', 'choices'], ['label'])
    """
    return _HOLE.findall(name) or [name]


def _at(value: Any, path: str) -> Any:
    """The value of a path, or None. In a list, a number is a place, and a name is read of every object."""
    if isinstance(value, Mapping) and path in value:
        return value[path]
    first, _, rest = path.partition(".")
    if isinstance(value, list) and not first.isdecimal():
        found = [_at(item, path) for item in value]
        return found if any(item is not None for item in found) else None
    if isinstance(value, list):
        inner = value[int(first)] if len(first) < 10 and int(first) < len(value) else None
    else:
        inner = value.get(first) if isinstance(value, Mapping) else None
    return _at(inner, rest) if rest and inner is not None else inner


def has(row: Mapping[str, Any], path: str) -> bool:
    """Whether the row has the field, also if it is null."""
    if path in row:
        return True
    above, _, last = path.rpartition(".")
    inner = _at(row, above) if above else None
    return _at(row, path) is not None or (isinstance(inner, Mapping) and last in inner)


def names(row: Mapping[str, Any]) -> list[str]:
    """The row's fields and those of its objects, as paths, sorted.

    >>> names({"id": 1, "question": {"stem": "?", "choices": [{"text": "a"}]}})
    ['id', 'question', 'question.choices', 'question.choices.text', 'question.stem']
    """
    found = set()

    def collect(value: Any, before: str, depth: int) -> None:
        inner = next((item for item in value if isinstance(item, Mapping)), None) if isinstance(value, list) else value
        if not isinstance(inner, Mapping) or depth == 3:
            return
        for key in inner:
            found.add(f"{before}{key}")
            collect(inner[key], f"{before}{key}.", depth + 1)

    collect(row, "", 0)
    return sorted(found)


def note_names(row: Mapping[str, Any], seen: set[str]) -> None:
    """Adds :func:`names` of a row to ``seen``, for a message: no more than :data:`MOST_NAMES`, long ones cut.

    Rows of any file may each have other fields, of any length.
    """
    if len(seen) < MOST_NAMES:
        for name in names(row)[: MOST_NAMES - len(seen)]:
            seen.add(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…")


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """The value of a name, path or template in a row; None if a name or path has no value.

    Raises:
      RowError: a field of a template is absent, or no text.
    """
    if name in row or not _HOLE.search(name):
        return _at(row, name)
    for wanted in fields_in(name):
        if _at(row, wanted) is None:
            raise RowError(f"field {wanted!r} is absent")
    return _HOLE.sub(lambda hole: _shown(_at(row, hole[1]), hole[1]), name)


def lettered(options: Iterable[str]) -> str:
    """Options one per line, each with its letter.

    >>> lettered(["attic", "harbour"])
    '(a) attic\\n(b) harbour'
    """
    return "\n".join(f"({chr(ord('a') + number)}) {option}" for number, option in enumerate(options))


def _shown(value: Any, name: str) -> str:
    if isinstance(value, list | Mapping):
        try:
            options = choices_of(value, name)[0]
        except RowError:
            if isinstance(value, Mapping):
                return text(value, f"field {name!r}")
            raise
        return lettered(options)
    return text(value, f"field {name!r}")


def text_of(row: Mapping[str, Any], name: str) -> str:
    """The text in a field of a row, or a template filled from its fields.

    Args:
      row: an object of JSON.
      name: of the field, a path (``question.stem``), or a template; see :class:`distill.tasks.jsonl.JsonLines`.

    Raises:
      RowError: a field that is absent, blank, neither text nor number (in a template: nor a list of them), or cannot be
        encoded.
    """
    for wanted in fields_in(name):
        value = _at(row, wanted)
        values = value if isinstance(value, list) else [value]
        if all(each is None or (isinstance(each, str) and not each.strip()) for each in values):
            raise RowError(_nothing(row, wanted, value))
    return text(value_of(row, name), f"field {name!r}")


def _nothing(row: Mapping[str, Any], field: str, value: Any) -> str:
    """Why a field holds no text: it is absent, null or empty."""
    if not has(row, field):
        return f"field {field!r} is absent; the row has {', '.join(names(row)) or 'no field'}"
    if isinstance(value, str):
        return f"field {field!r} is empty; expected a text"
    if value is None:
        return f"field {field!r} is null; expected a text"
    return f"field {field!r} is a list without a text"


def identity_of(row: Mapping[str, Any], name: str = "id") -> str | int | float | bool | None:
    """The row's id in a form that can be written as JSON; None without an id.

    Args:
      row: an object of JSON.
      name: the field, path or template of the id.

    Raises:
      RowError: it is a list or an object, not finite, or cannot be encoded.
    """
    value = value_of(row, name)
    if value is not None:
        text(value, name)
    return value


def choices_of(value: Any, name: str = "choices") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of choices, and the letters or numbers that represent them.

    Args:
      value: a list of texts; as CommonsenseQA and ARC are published, a list of ``{"label": "A", "text": …}``; as on the
        Hugging Face hub, ``{"label": ["A", …], "text": […]}``; or None.
      name: of the field, for errors.

    Returns:
      ``(texts, letters)``, equally long. Where ``value`` names no letters, A, B, C and so on.

    Raises:
      RowError: it is none of these, or one of the choices is neither text nor number; names its place, from 0.

    >>> choices_of({"label": ["1", "2"], "text": ["attic", "harbour"]})
    (('attic', 'harbour'), ('1', '2'))
    """
    given, place = value, f"{name}[{{}}]"
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        letters = value.get("label")
        given, marks, place = value["text"], letters if isinstance(letters, list) else None, f"{name}.text[{{}}]"
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "text" in item for item in value):
        given, marks = [item["text"] for item in value], [item.get("label") for item in value]
        place = f"{name}[{{}}].text"
    else:
        marks = None
    if isinstance(given, list):
        found = tuple(_choice(item, place.format(number)) for number, item in enumerate(given))
    else:
        found = texts(given, name)
    if marks is None or any(mark is None for mark in marks):
        return found, tuple(chr(ord("A") + number) for number in range(len(found)))
    if len(marks) != len(found):
        raise RowError(f"{name} must have as many texts as labels; got {len(found)} texts and {len(marks)} labels")
    return found, texts(marks, f"a label of {name}")


def choices_of_all(value: Any, name: str = "choices") -> tuple[str, ...]:
    """The texts of choices that all rows have, as :func:`choices_of` reads those of a row.

    Raises:
      RowError: also if they are fewer than two, one is blank, or two are the same text.

    >>> choices_of_all([1, 2.5, "none"])
    ('1', '2.5', 'none')
    """
    found = choices_of(value, name)[0]
    if len(found) < 2:
        raise RowError(f"{name} has {counted(len(found), 'text')}")
    for number, one in enumerate(found):
        if is_blank(one):
            raise RowError(f"{name}[{number}] is blank")
        if one in found[:number]:
            raise RowError(f"{name}[{found.index(one)}] and {name}[{number}] are the same text, {shown(one)}")
    return found


def _choice(value: Any, name: str) -> str:
    if value is None:
        raise RowError(f"{name} is null; expected a text or a number")
    return text(value, name)


def choice_text(label: str, choices: Sequence[str], letters: Sequence[str]) -> str:
    """The text of the choice whose letter or number ``label`` is; ``label`` itself if it is none, or a choice's text.

    >>> choice_text("B", ("attic", "harbour"), ("A", "B"))
    'harbour'
    """
    if label in choices:
        return label
    places = [place for place, letter in enumerate(letters) if letter.casefold() == label.strip().casefold()]
    return choices[places[0]] if len(places) == 1 else label


def rationales_of(
    given: Any, teachers: Any, provenance: Any, names: tuple[str, str] = ("rationales", "rationale_teachers")
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of rationales, and the teacher of each.

    Args:
      given: one text, a list of texts, or an object of one text or several per teacher; None is none.
      teachers: the teachers of a list, one per rationale; None: from ``provenance``.
      provenance: of a row that ``distill extract`` wrote, whose ``rationales_by`` is a list of [teacher, sample]; without
        it, its only teacher wrote all of them.
      names: of the fields of ``given`` and ``teachers``, for errors.

    Returns:
      ``(texts, teachers)``; no teachers if they are not known.

    Raises:
      RowError: something else.

    >>> rationales_of({"palm": "It flies.", "gpt": ["It sings.", "It nests."]}, None, None)
    (('It flies.', 'It sings.', 'It nests.'), ('palm', 'gpt', 'gpt'))
    """
    if isinstance(given, Mapping):
        by_teacher = [(teacher, why) for teacher, value in given.items() for why in texts(value, names[0])]
        return tuple(why for _, why in by_teacher), tuple(teacher for teacher, _ in by_teacher)
    found = texts(given, names[0])
    if teachers is None and isinstance(provenance, Mapping):
        asked = provenance.get("teachers")
        if isinstance(provenance.get("rationales_by"), list):
            teachers = [pair[0] for pair in provenance["rationales_by"] if isinstance(pair, list) and pair]
        elif isinstance(asked, list) and len(asked) == 1 and isinstance(asked[0], Mapping):
            teachers = [asked[0]["teacher"]] * len(found) if isinstance(asked[0].get("teacher"), str) else None
    return found, texts(teachers, names[1])


def votes_of(given: Any, name: str, *, logarithms: bool = False) -> list[tuple[str, float]]:
    """Numbers by label as (label, number); log-probabilities become probabilities.

    Args:
      given: an object of numbers.
      name: of the field, for errors.
      logarithms: whether the numbers are log-probabilities.

    Raises:
      RowError: it is no object of numbers.

    >>> votes_of({"larks": 3, "owls": 1}, "label_votes")
    [('larks', 3.0), ('owls', 1.0)]
    """
    if not isinstance(given, Mapping):
        raise RowError(f"{name} is not an object of numbers by label but {type(given).__name__}")
    for label, number in given.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise RowError(f"{name}: the value of {shown(label)} is not a finite number but {shown(number)}")
    if not logarithms:
        return [(check_text(label, name), float(number)) for label, number in given.items()]
    largest = max(given.values(), default=0.0)
    return [(check_text(label, name), math.exp(number - largest)) for label, number in given.items()]


def solution_of(solution: str, marker: str) -> tuple[str, str]:
    """The rationale and the label of a text that holds both, as in GSM8K.

    The label follows the last ``marker``; a number loses its thousands separators. GSM8K's marks for a calculator,
    ``<<6*8=48>>``, are removed from the rationale.

    Raises:
      RowError: no marker, or no text after it.

    >>> solution_of("There are 6*8=<<6*8=48>>48 pears.\\n#### 1,048", "####")
    ('There are 6*8=48 pears.', '1048')
    """
    why, found, label = solution.rpartition(marker)
    if not found:
        raise RowError(f"no {shown(marker)} in the solution")
    label = label.strip()
    if is_blank(label):
        raise RowError(f"no label after {shown(marker)} in the solution")
    if _THOUSANDS.fullmatch(label):
        label = label.replace(",", "")
    return reply_text.without_calculations(why).strip(), label
