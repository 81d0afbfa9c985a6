import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import arithmetic, parsers
from tasks.parsers import parse

CHOICES = ("aquarium", "pond", "washington d.c", "rug.", "Australia")
INVENTED = "\n\nQ: What is next?\nAnswer Choices:\n(a) x\n(b) y\nA: It must be x. So the answer is (a) x."


def _reply(answer, rationale="It must hold water.", marker="So the answer is"):
    return f"{rationale} {marker} {answer}{INVENTED}"


@pytest.mark.parametrize(
    ("answer", "strict", "improved"),
    [
        ("(b) pond.", "pond", "pond"),
        ("(a) aquarium or (b) pond.", "aquarium or", "aquarium"),
        ("either (a) aquarium or (b) pond.", "aquarium or", None),
        ("(e) australia.", "australia", "Australia"),
        ("(c) Washington D.C.", "Washington D.C", "washington d.c"),
        ("(d) rug.", "rug", "rug."),
        ("(B) Pond", "Pond", "pond"),
        ("(b) puddle.", "puddle", "pond"),
        ("(f) lake.", "lake", None),
    ],
)
def test_choices(answer, strict, improved):
    reply = _reply(answer)
    read = parse("cqa", reply, CHOICES)
    assert parse("cqa", reply, CHOICES, mode="strict").label == strict
    assert read.llm_label == improved
    assert read.rationales == ("It must hold water.",)
    assert (read.undecided is None) == (improved is not None)
    assert read.failed is None


@pytest.mark.parametrize("name", ["cqa", "svamp", "esnli", "anli1"])
@pytest.mark.parametrize("mode", ["strict", "improved"])
@pytest.mark.parametrize("reply", ["", "   ", "No marker here.", "Q: only a question"])
def test_a_reply_without_an_answer_fails_and_gives_nothing_to_train_on(name, mode, reply):
    read = parse(name, reply, CHOICES, mode=mode)
    assert read.rationales == ()
    assert read.llm_label is None


def test_a_choice_without_a_letter_fails_in_both_modes():
    reply = _reply("one of these four.")
    for mode in ("strict", "improved"):
        read = parse("cqa", reply, CHOICES, mode=mode)
        assert read.failed == "no option letter after the marker"
        assert read.rationales == ()
        assert read.llm_label is None


def test_strict_needs_exactly_one_marker():
    reply = "First. So the answer is (a) x. No. So the answer is (b) pond."
    assert parse("cqa", reply, CHOICES, mode="strict").failed
    assert parse("cqa", reply, CHOICES).llm_label == "aquarium"


@pytest.mark.parametrize(
    ("answer", "strict", "improved"),
    [
        ("(84 / 2).", "(84 / 2)", "(84 / 2)"),
        ("(67 * 66) / 6.", "(67 * 66)", "(67 * 66) / 6"),
        ("((8 figures + 10 cabinets) * 4 shelves).", "((8 figures + 10 cabinets) * 4 shelves)", "((8 + 10) * 4)"),
        ("(95 * 118) + (11,210 / 84).", "(95 * 118) + (11,210 / 84)", "(95 * 118) + (11210 / 84)"),
        ("(2).", "(2)", "(2)"),
        ("42.", " ", "42"),
        ("$ 42.", " ", "42"),
        ("(14, 21).", "(14, 21)", None),
        ("(25 + x).", "(25 + x)", None),
        ("(some - 8).", "(some - 8)", None),
        ("(8 / 4) and (6 / 4).", "(8 / 4) and (6 / 4)", None),
        ("12 and 4.", " ", None),
        ("(7x = 14).", "(7x = 14)", None),
    ],
)
def test_equations(answer, strict, improved):
    reply = _reply(answer, "There are 84.", "The answer is")
    read = parse("svamp", reply)
    assert parse("svamp", reply, mode="strict").label == strict
    assert read.llm_label == improved
    assert read.rationales == ("There are 84.",)


@pytest.mark.parametrize("answer", ["((491 - 21", "(9 + 6", ""])
def test_an_equation_that_breaks_off_fails(answer):
    read = parse("svamp", f"It is so. The answer is {answer}")
    assert read.failed == "the reply breaks off within its answer"
    assert read.rationales == ()


def test_asdiv_is_read_as_svamp():
    assert parse("asdiv", "Nine. The answer is (3 * 3).") == parse("svamp", "Nine. The answer is (3 * 3).")


def test_esnli():
    reply = "A man who sits does not stand. Answer: Contradiction.\n\nPremise: A dog.\nAnswer: neutral"
    assert parse("esnli", reply).llm_label == "contradiction"
    assert parse("esnli", reply).rationales == ("A man who sits does not stand.",)
    strict = parse("esnli", reply, mode="strict")
    assert (strict.rationale, strict.label) == ("A man who sits does not stand.", "Contradiction.")
    assert parse("esnli", "Because. Answer: maybe").undecided
    assert parse("esnli", "Because.", mode="strict").failed == "no answer marker"
    assert parse("esnli", "Because.", mode="strict").rationales == ()


def test_anli_strict_loses_a_character_where_the_period_is_missing():
    with_period = "It says so. So the answer is entailment.\n\nPremise: Another."
    without = "It says so. So the answer is entailment\n\nPremise: Another."
    assert parse("anli1", with_period, mode="strict").label == "entailment"
    assert parse("anli1", without, mode="strict").label == "entailmen"
    assert parse("anli1", without).llm_label == "entailment"


def test_gpt_strict_knows_the_second_marker():
    reply = " It says so. The answer is neutral."
    assert parse("anli1", reply, mode="strict", teacher="palm").failed
    read = parse("anli1", reply, mode="strict", teacher="gpt")
    assert (read.rationale, read.label) == ("It says so.", "neutral")


def test_gpt_strict_drops_leading_space():
    reply = "\n It is. So the answer is (b) pond."
    assert parse("cqa", reply, CHOICES, mode="strict", teacher="palm").rationale == "\n It is."
    assert parse("cqa", reply, CHOICES, mode="strict", teacher="gpt").rationale == "It is."


def test_a_capital_q_within_a_sentence_does_not_end_the_reply():
    reply = "He asks Mr. Q: where? A pond. So the answer is (b) pond."
    assert parse("cqa", reply, CHOICES).llm_label == "pond"
    assert parse("cqa", reply, CHOICES, mode="strict").failed


@pytest.mark.parametrize(
    ("name", "reply", "choices", "reason"),
    [
        ("cqa", _reply("(b) pond."), CHOICES, None),
        ("cqa", _reply("(a) aquarium or (b) pond."), CHOICES, "several options: the first is taken"),
        ("cqa", _reply("either (a) aquarium or (b) pond."), CHOICES, "several options, none of them first"),
        ("cqa", _reply("(e) australia."), CHOICES, "upper and lower case"),
        ("cqa", _reply("(d) rug."), CHOICES, "the final period belongs to the choice"),
        ("cqa", _reply("(b) puddle."), CHOICES, "the text is not the choice's text"),
        ("cqa", _reply("(b) aquarium."), CHOICES, "letter and text disagree"),
        ("svamp", _reply("(6 * 6) / 6.", marker="The answer is"), (), "the expression goes on behind its brackets"),
        ("svamp", _reply("(2 * x).", marker="The answer is"), (), "the answer is not arithmetic"),
        ("svamp", _reply("(1,000 + 1).", marker="The answer is"), (), "units, currency or thousands separators"),
        ("svamp", _reply("42.", marker="The answer is"), (), "strict fails (nothing in brackets after the marker)"),
    ],
)
def test_differences_have_reasons(name, reply, choices, reason):
    difference = parsers.difference(name, reply, choices)
    if reason is None:
        assert difference is None
    else:
        assert difference.reasons[0].startswith(reason)


def test_unknown_names_suggest_a_neighbour():
    with pytest.raises(ValueError, match="no parser named 'svanp'; did you mean 'svamp'"):
        parse("svanp", "x")
    with pytest.raises(ValueError, match="mode must be"):
        parse("svamp", "x", mode="lenient")
    with pytest.raises(ValueError, match="teacher must be"):
        parse("svamp", "x", teacher="bard")


_PIECES = st.sampled_from(
    [
        "So the answer is",
        "The answer is",
        "Answer: ",
        "Q:",
        "\n\nQ: ",
        "\nPremise: ",
        "(a)",
        "(b) pond",
        "(7 * 6)",
        "entailment.",
        " or ",
        ".",
        "\n",
        "some text",
        "(",
    ]
)


@settings(deadline=None, max_examples=200)
@given(st.lists(_PIECES | st.text(max_size=5), max_size=8), st.sampled_from(parsers.NAMES), st.booleans())
def test_any_reply_is_read_without_error_and_consistently(pieces, name, strict):
    reply = " ".join(pieces)
    choices = CHOICES if name == "cqa" else ()
    read = parse(name, reply, choices, mode="strict" if strict else "improved")
    if read.failed:
        assert read.rationales == ()
        assert read.llm_label is None
    if strict:
        return
    assert all(text == text.strip() and text for text in read.rationales)
    assert all(text in reply for text in read.rationales)
    if read.llm_label is not None:
        assert read.rationales and not read.undecided
        if name == "cqa":
            assert read.llm_label in choices
        elif name in ("svamp", "asdiv"):
            assert arithmetic.evaluate(read.llm_label) is not None
        else:
            assert read.llm_label in parsers.NLI_LABELS
    else:
        assert read.failed or read.undecided


_WORDS = st.text(alphabet="abcdefgh ,'", min_size=1).map(str.strip).filter(bool)


@settings(deadline=None, max_examples=100)
@given(_WORDS, st.lists(_WORDS, min_size=2, max_size=5, unique=True), st.data())
def test_a_well_formed_reply_is_read_back(rationale, choices, data):
    index = data.draw(st.integers(0, len(choices) - 1))
    reply = _reply(f"({'abcde'[index]}) {choices[index]}.", rationale + ".")
    read = parse("cqa", reply, choices)
    assert (read.rationales, read.llm_label) == ((rationale + ".",), choices[index])
    strict = parse("cqa", reply, choices, mode="strict")
    assert (strict.rationale, strict.label) == (rationale + ".", choices[index])


@pytest.mark.parametrize("name", parsers.NAMES)
@pytest.mark.parametrize("filler", ["\n", " ", "\n ", "Q", "\nQ "])
def test_a_long_run_of_white_space_takes_no_time(name, filler):
    started = time.monotonic()
    parsers.parse(name, "It is so. " + filler * 20_000 + "So the answer is (a) x. The answer is (1 + 1).", ("x", "y"))
    assert time.monotonic() - started < 5.0


def test_what_stands_behind_a_label_of_esnli_is_no_unit():
    found = parsers.difference("esnli", "A man sits. Answer: neutral\n\nPre")
    assert found is not None
    assert found.reasons == ("text behind the label",)
    found = parsers.difference("esnli", "A man sits. Answer: Neutral.")
    assert found is not None
    assert found.reasons == ("upper and lower case, spaces or punctuation",)
