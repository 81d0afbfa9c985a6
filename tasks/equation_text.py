"""A teacher's arithmetic in plain operators: without units, thousands separators, markdown and LaTeX."""

import re

from distill.tasks import arithmetic, reply_text

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Words after a number that are no unit: they multiply it.
_NUMBER_WORD = r"(?:hundred|thousand|million|billion|trillion|dozen)s?\b"
_UNITS = re.compile(rf"(?<=\d)\s+(?!and\b|or\b|x\b|{_NUMBER_WORD})[A-Za-z]+(?:\s+(?!and\b|or\b)[A-Za-z]+)*")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")", "$": " "})


def clean_equation(text: str) -> str:
    """An expression in plain operators: one line, no units, no thousands separators, no currency, no final period.

    >>> clean_equation("((8 figures + 10 cabinets) * 4 shelves).")
    '((8 + 10) * 4)'
    """
    text = text.strip().split("\n")[0].strip()
    text = _THOUSANDS.sub("", text.translate(_SIGNS).rstrip(". "))
    return _UNITS.sub("", text).strip()


_BOLD = re.compile(r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?=[\s.,;:!?]|\Z)")
_TIMES = re.compile(r"(?<=[\d)])\s*[xX×·∙⋅]\s*(?=[\d(])")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LATEX = (
    (re.compile(r"\\text\s*\{[^{}]*\}|\\(?:mathrm|textbf|mathbf)\s*\{(?![\d(])[^{}]*\}"), " "),
    (re.compile(r"\\(?:boxed|fbox|textbf|mathrm|mathbf|left|right|displaystyle|,|;|!|quad|qquad|\(|\)|\[|\])"), " "),
    (re.compile(r"\\(?:times|cdot|ast)"), "*"),
    (re.compile(r"\\div"), "/"),
    (re.compile(r"\\[$%]"), " "),
    (re.compile(r"\\(?:approx|equiv)"), "="),
)
_WORDS_AFTER = re.compile(
    rf"(?<=[)}}$])\s+(?!(?:and|or|x)\b|{_NUMBER_WORD})[A-Za-z]+(?:\s+(?!(?:and|or)\b)[A-Za-z]+)*(?:[.!;?](?:\s.*)?)?\Z"
)
_SENTENCE_END = re.compile(r"[.!;?](?=\s|\Z)")
_ONLY_WORDS = re.compile(r"[A-Za-z][A-Za-z _]*")


def plain_equation(text: str) -> str:
    r"""An answer as chat models write it, in plain operators; equal signs stay.

    >>> plain_equation("$\\boxed{\\frac{40 + 15}{5}}$ plums.")
    '(40 + 15)/(5)'
    >>> plain_equation("**2 x 5 + 1 = 11**")
    '2 * 5 + 1 = 11'
    """
    text = next((line for line in text.split("\n") if re.search(r"\d", line)), "").strip()
    if len(text) > 4 * arithmetic.MAX_LENGTH:
        return ""
    text = _WORDS_AFTER.sub("", _BOLD.sub("", text))
    text = reply_text.undecorated(text)
    for _ in range(4):
        text = _FRACTION.sub(r"(\1)/(\2)", text)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = text.translate(str.maketrans("{}≈", "()="))
    found = _SENTENCE_END.search(text)
    if found is not None:
        text = text[: found.start()]
    text = _TIMES.sub(" * ", text).replace("^", "**").replace("`", "")
    text = " ".join(clean_equation(text).split())
    while text.startswith("(") and text.endswith(")") and "=" in text and _closes_at(text) == len(text) - 1:
        text = text[1:-1].strip()
    if "=" not in text:
        text = _without_outer(text)
    return text


def _closes_at(text: str) -> int:
    """Where the bracket that opens at 0 closes; -1 if it does not."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return at
    return -1


def _without_outer(text: str) -> str:
    """``( (e) )`` as it comes from LaTeX braces, with blanks inside, as ``e``; "(40 + 15)" stays."""
    while text.startswith("( ") or (text.startswith("(") and text.endswith(" )")):
        if _closes_at(text) != len(text) - 1:
            break
        text = text[1:-1].strip()
    return text


def expression_of(answer: str) -> tuple[str | None, str]:
    """The expression in an answer, or None and the reason."""
    equation = clean_equation(answer)
    if equation and arithmetic.evaluate(equation) is not None:
        return equation, ""
    plain = plain_equation(answer)
    sides = [side.strip() for side in plain.split("=")]
    if len(sides) > 1 and _ONLY_WORDS.fullmatch(sides[0]):
        sides = sides[1:]  # "Total = 55 / 5 = 11"
    values = [arithmetic.evaluate(side) for side in sides]
    if values and all(value is not None for value in values):
        if all(arithmetic.same_value(side, sides[0]) for side in sides):
            return sides[0], ""
        return None, "the two sides of '=' have different values"
    return None, "the answer is not arithmetic"
