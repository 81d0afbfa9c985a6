r"""Removes the text that chat models and their servers put around an answer.

Three layers, from outside to inside:

1. :func:`open_reply` removes thoughts (``<think>…</think>`` and similar tags, OpenAI's analysis channel), the tokens
   of chat templates (``<|im_end|>``, ``</s>``) and a code fence around the whole reply.
2. :func:`split_at_marker` finds the words in front of the answer, also in bold or in another case.
3. :func:`undecorated` and :func:`label_text` remove markdown, quotes, colons, LaTeX and closing words from the answer.

All functions take time linear in the length of the reply.
"""

import dataclasses
import re
from collections.abc import Sequence

STILL_THINKING = "the reply is an unfinished thought"
"""The failure of a reply with an opening thinking tag and no closing one."""
ONLY_THOUGHTS = "no text after the thoughts"

_NAMES = r"(?:think|thinking|thought|thoughts|reasoning|seed:think|reflection)"
# (opening, closing) of a thought. Attributes are allowed: <details type="reasoning" done="true">.
_THOUGHTS = (
    (rf"<{_NAMES}(?:\s[^<>]{{0,200}})?>", rf"</{_NAMES}\s{{0,8}}>"),
    (r"<details\s[^<>]{0,100}type=.reasoning.[^<>]{0,100}>", r"</details>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|channel>\s{0,8}(?:thought|analysis)", r"<channel\|>"),
    (r"<unused94>\s{0,8}thought", r"<unused95>"),
)
_OPENING = re.compile("|".join(opening for opening, _ in _THOUGHTS), re.IGNORECASE)
_CLOSING = re.compile("|".join(closing for _, closing in _THOUGHTS), re.IGNORECASE)
# OpenAI's open-weight models: "<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…".
_FINAL = re.compile(r"<\|channel\|>\s{0,8}final(?:\s[^<>|]{0,80}|<\|constrain\|>[^<>|]{0,80})?<\|message\|>")
_CHANNEL = re.compile(r"<\|channel\|>\s{0,8}(?:analysis|commentary)")
# The same where the server dropped the special tokens: "analysisThe user …assistantfinalThe writer …".
_BARE_CHANNEL = re.compile(r"\A\s{0,64}analysis(?=[A-Z])")
_BARE_FINAL = "assistantfinal"

_BEGIN = re.compile(
    r"\A(?:\s|<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<｜begin▁of▁sentence｜>|<\|im_start\|>\s?(?:assistant)?"
    r"|<\|start_header_id\|>\s?assistant\s?<\|end_header_id\|>|<start_of_turn>\s?(?:model)?|<\|turn>\s?(?:model)?"
    r"|<\|start\|>\s?(?:assistant)?(?=<)|<\|assistant\|>|<｜Assistant｜>|<\|START_RESPONSE\|>|<\|CHATBOT_TOKEN\|>)+"
)
_END = re.compile(
    r"<\|(?:eot_id|eom_id|end_of_text|im_end|endoftext|end|return|eot|end_of_turn|end_of_sentence|eos|END_OF_TURN_TOKEN"
    r"|END_RESPONSE|start_header_id|im_start|start|user|call)\|>"
    r"|</s>|<end_of_turn>|<start_of_turn>|<eos>|<turn\|>|<EOT>|<｜end▁of▁sentence｜>|<｜User｜>|\[/?INST\]"
)
_FENCE = re.compile(r"```[\w-]{0,20}[^\S\n]{0,80}\n")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A reply without its surroundings.

    Attributes:
      text: the answer proper.
      trouble: :data:`STILL_THINKING` or :data:`ONLY_THOUGHTS` if ``text`` is incomplete because of thoughts, or "".
    """

    text: str
    trouble: str = ""


def open_reply(reply: str) -> Opened:
    """Removes thoughts, template tokens and a fence around the whole.

    >>> open_reply("<think>Attic? No.</think>\\nBoats float. So the answer is (b).<|eot_id|>").text
    'Boats float. So the answer is (b).'
    >>> open_reply("<think>So the answer is attic?")
    Opened(text='', trouble='the reply is an unfinished thought')
    """
    text, trouble = _without_thoughts(reply)
    text = _BEGIN.sub("", text, count=1) if text else text
    end = _END.search(text)
    if end is not None:
        text = text[: end.start()]
    return Opened(_without_fence(text), trouble)


def _without_fence(text: str) -> str:
    """``text`` without a code fence that begins with it and ends with it, or never ends; other fences stay."""
    stripped = text.strip()
    opening = _FENCE.match(stripped)
    if opening is None:
        return text
    inner = stripped[opening.end() :].removesuffix("```").strip()
    return text if "```" in inner else inner


def _without_thoughts(reply: str) -> tuple[str, str]:
    finals = [found.end() for found in _FINAL.finditer(reply)]
    if finals:
        return reply[finals[-1] :], ""
    if _CHANNEL.search(reply):
        return "", STILL_THINKING
    if _BARE_CHANNEL.match(reply):
        parts = reply.rpartition(_BARE_FINAL)
        return (parts[2], "") if parts[1] else ("", STILL_THINKING)
    # A closing tag alone ends a thought that the chat template opened; an opening one alone never ends.
    kept, depth, start, any_thought = [], 0, 0, False
    tags = sorted(
        [(found.start(), found.end(), 1) for found in _OPENING.finditer(reply)]
        + [(found.start(), found.end(), -1) for found in _CLOSING.finditer(reply)]
    )
    for begins, ends, step in tags:
        any_thought = True
        if step > 0:
            if depth == 0:
                kept.append(reply[start:begins])
            depth += 1
        elif depth > 0:
            depth -= 1
            start = ends
        else:
            kept, start = [], ends
    if not any_thought:
        return reply, ""
    if depth == 0:
        kept.append(reply[start:])
    text = "".join(kept)
    if depth:
        return text, STILL_THINKING
    return text, "" if text.strip() else ONLY_THOUGHTS


# Words before an answer, if the prompt's own are missing. The last ones count: earlier ones may be part of the reasoning.
_SO = r"(?:\b(?:so|thus|hence|therefore|consequently)\b[\s,*_]{0,8})?"
_ANSWER_IS = re.compile(
    rf"{_SO}"
    r"\b(?:the|my)[\s*_]{1,8}(?:(?:final|correct|right|best|most\s+likely)[\s*_]{1,8})?answer[\s*_]{1,8}(?:is|would\s+be|should\s+be)\b"
    r"|(?:(?<=\n)|\A)[\s*_#>]{0,16}(?:final[\s*_]{1,8}|my[\s*_]{1,8})?answer[\s*_]{0,8}:"
    r"|\b(?:final)[\s*_]{1,8}answer[\s*_]{0,8}:"
    r"|(?:\*\*|__)answer\s{0,4}(?::\s{0,4}(?:\*\*|__)|(?:\*\*|__)\s{0,4}:)"
    r"|(?:(?<=\n)|\A)#{1,6}[ *_]{1,8}(?:final[ *_]{1,8})?answer[ *_:]{0,8}(?=\n)",
    re.IGNORECASE,
)
_RULE_END = re.compile(r"(?:(?:\A|(?<=\s))[*_#>\-–—=\"“‘`]{1,80}\s{0,80})+\Z")
_LOOKBACK = 400
_LONGEST_ANSWER = 2_000  # characters of one line; more is no label


def split_at_marker(text: str, markers: Sequence[str], *, others: bool = True) -> tuple[str, str] | None:
    """The text before and after the first marker; None without one.

    Args:
      text: a reply, opened and cut at the next invented question.
      markers: the markers of the prompt. If none occurs in the text exactly, case, white space and
        markdown within them do not matter.
      others: if they fail too, take the last of the usual markers: "Therefore, the answer is", "Final answer:".

    Returns:
      rationale and answer, white space and stray markdown at the rationale's end removed.
    """
    places = [(text.find(marker), len(marker)) for marker in markers if marker in text]
    if places:
        at, length = min(places)
        return without_rule(text[:at]), text[at + length :].strip()
    found = re.search("|".join(map(_loose, markers)), text, re.IGNORECASE) if markers else None
    if found is None and others:
        found = next(iter([*_ANSWER_IS.finditer(text)][-1:]), None)
    if found is None:
        return None
    return without_rule(text[: found.start()]), text[found.end() :].strip()


def _loose(marker: str) -> str:
    words = r"[\s*_]{1,8}".join(re.escape(word) for word in marker.removesuffix(":").split())
    ends = r"[\s*_]{0,8}:" if marker.endswith(":") else r"(?!\w)"
    return rf"{_SO}(?<!\w){words}{ends}"


_CORRECTS = (
    r"\b(?:no\b(?=\s{0,4}[,.:;!…–—-])|(?:wait|hmm|actually|sorry|correction|scratch\s+that|or\s+rather|i\s+mean)\b)"
    r"[\s,.:;!…–—-]{1,8}(?:it(?:\s+is|['’]s|\s+(?:should|must)\s+be)\s+)?"
)


def later_answers(answer: str, markers: Sequence[str], *, others: bool = True) -> list[str]:
    """The texts in which a reply may answer again: after each further marker, and after words that correct an answer.

    Args:
      answer: the text after the first marker.
      markers: the markers of the prompt.
      others: whether the usual markers and words of correction ("no,", "wait", "actually") count, too.

    >>> later_answers("(a) oak... no, (b) otter. So the answer is (b).", ["So the answer is"])
    ['(b) otter.', '(b).']
    """
    patterns = [*map(_loose, markers), *([_ANSWER_IS.pattern, _CORRECTS] if others else [])]
    found = [*re.finditer("|".join(patterns), answer, re.IGNORECASE)]
    ends = [*(one.start() for one in found[1:]), len(answer)]
    return [answer[one.end() : end].strip() for one, end in zip(found, ends)]


def split_at_box(text: str) -> tuple[str, str] | None:
    r"""The text before the last ``\boxed{`` and its content; None without one, or if it does not end."""
    at = text.rfind("\\boxed{")
    if at < 0:
        return None
    depth = 0
    for end in range(at, min(len(text), at + _LONGEST_ANSWER)):
        depth += (text[end] == "{") - (text[end] == "}")
        if text[end] == "}" and depth == 0:
            return without_rule(text[:at].rstrip(" $([\\")), text[at : end + 1]
    return None


_CALCULATION = re.compile(r"<<[^<>\n]*>>")


def without_calculations(text: str) -> str:
    """``text`` without GSM8K's marks for a calculator.

    >>> without_calculations("There are 6*8=<<6*8=48>>48 pears.")
    'There are 6*8=48 pears.'
    """
    return _CALCULATION.sub("", text)


def without_rule(rationale: str) -> str:
    """A rationale without the markdown that begins the next part: an opening ``**``, a rule, a bullet."""
    rationale = rationale.strip()
    found = _RULE_END.search(rationale, max(0, len(rationale) - _LOOKBACK))
    return rationale[: found.start()].rstrip() if found is not None else rationale


_PAIRS = (
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("```", "```"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("‘", "’"),
    ("«", "»"),
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("\\boxed{", "}"),
    ("\\fbox{", "}"),
    ("\\textbf{", "}"),
    ("\\text{", "}"),
    ("\\mathrm{", "}"),
    ("\\mathbf{", "}"),
    ("_", "_"),
)
_OPENERS = tuple("*_`\"'“‘«$\\")
_CERTAIN = re.compile(
    r"\A(?:(?:(?:most|very|quite)\s+)?(?:probably|likely|clearly|definitely|certainly|obviously|surely|evidently|undoubtedly)"
    r"[\s,:]{1,4}){1,3}",
    re.IGNORECASE,
)


def without_adverb(answer: str) -> str:
    """``answer`` without a leading adverb that leaves one answer.

    >>> without_adverb("most likely (b)"), without_adverb("probably (b) otter")
    ('(b)', '(b) otter')
    """
    return _CERTAIN.sub("", answer)


_TAG = re.compile(r"</?(?:answer|final_answer|final|response|output|b|strong|em|i|label|code)>", re.IGNORECASE)
_LEADING = re.compile(r"\A(?:\s|:(?![()D])|(?:[-–—•>#*=]+)\s)+")
_STRAY = re.compile(r"\A(?:\*\*|__|`+|\*)|(?:\*\*|__|`+|\*)\Z")


def undecorated(text: str, keep: Sequence[str] = ()) -> str:
    r"""``text`` without markdown, quotes, tags, LaTeX and a leading colon or bullet around it.

    Args:
      text: an answer.
      keep: texts that are answers without change, case folded.

    >>> undecorated(': **"loans"**')
    'loans'
    >>> undecorated("$\\boxed{\\text{harbour}}$")
    'harbour'
    """
    if len(text) > _LONGEST_ANSWER:
        return text.strip()
    text = _TAG.sub("", text).strip()
    while True:
        before = text
        if text.casefold() in keep:
            return text
        text = _LEADING.sub("", text).strip()
        if text[:1] in _OPENERS and text[-1:] in ".,;":
            text = text.rstrip(".,;")
        for opening, closing in _PAIRS:
            if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : len(text) - len(closing)].strip()
                if inner and (opening != closing or opening not in inner):
                    text = inner
                    break
        else:
            stray = _STRAY.search(text)
            if stray is not None and text.count(stray[0]) % 2:  # its partner was before the marker
                text = (text[: stray.start()] + text[stray.end() :]).strip()
            for quote in "\"”’'“‘":
                # A quote without its partner, which was before the marker.
                if text.endswith(quote) and not any(other in text[:-1] for other in "\"“”‘'’"):
                    text = text[:-1].strip()
        if text == before:
            return text


_SHORT = re.compile(
    r"(?:\b(?:st|mr|mrs|ms|dr|prof|mt|ft|sr|jr|gen|col|lt|capt|rev|hon|vs|etc|inc|ltd|co|corp|dept|approx|e\.g|i\.e)"
    r"|(?<=\.)[a-z])\Z",
    re.IGNORECASE,
)


def label_text(answer: str, tail: str = ".", known: Sequence[str] = ()) -> str:
    """The label in the text after a marker, for free-text labels.

    Args:
      answer: the text after the marker.
      tail: the text that the answer template has after a label.
      known: the possible labels; one of them at the beginning is the label.

    Returns:
      the label as the reply spells it, or as ``known`` does; "" if none is found.

    >>> label_text("**loans**. Let me know if you need anything else!")
    'loans'
    """
    line = next((line for line in answer.split("\n") if re.search(r"\w", line)), answer.split("\n")[0]).strip()
    by_case = {label.casefold(): label for label in known}
    plain = undecorated(line, tuple(by_case))
    named = first_of(plain, known) or first_of(undecorated(without_adverb(plain)), known)
    if named is not None:
        return named
    candidate = undecorated(line)
    if tail:
        at = candidate.find(tail)
        while at >= 0:
            rest = candidate[at + len(tail) :]
            ends = not rest.strip(" *_`\"'”’$)") or (rest[0] in " *_`\"'”’" and not _SHORT.search(candidate[:at]))
            if at > 0 and ends and not rest.strip()[:1].islower():
                candidate = candidate[:at]
                break
            at = candidate.find(tail, at + len(tail))
    candidate = undecorated(candidate)
    if candidate == tail:
        return ""
    return by_case.get(candidate.casefold(), candidate)


def first_of(text: str, known: Sequence[str]) -> str | None:
    """Which of the known labels ``text`` is or begins with, as a separate sentence; None for none or several.

    "loans", "Loans.", "loans (a map is borrowed)" and "loans, because …" name ``loans``; "loans or returns" and
    "loans desk" do not.
    """
    folded = text.casefold()
    for label in sorted(known, key=len, reverse=True):
        form = label.casefold()
        if not form or not folded.startswith(form):
            continue
        rest = folded[len(form) :]
        if not rest.strip(" .!*_`\"'”’$)}\\"):
            return label
        if not re.match(r"\s*(?:[*_`\"'”’]+)?(?:[.!;,:(\n–—]|\s-\s|\s(?:because|since|as)\b)", rest):
            return None  # "loans desk", "loans or returns"
        first_clause = re.split(r"[.!;\n]", rest, maxsplit=1)[0]
        others = [other for other in known if other != label and _stands_in(other, first_clause)]
        joined = re.match(r"\s*[,(]?\s*(?:and|or|and/or)\b", rest)
        return None if joined or (others and rest.lstrip()[:1] in ",") else label
    return None


def _stands_in(label: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(label.casefold())}(?!\w)", text) is not None
