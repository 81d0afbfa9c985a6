import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.tasks import arithmetic, parsers
from distill.tasks.parsers import parse

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


def test_an_answer_that_names_no_choice_keeps_its_rationale():
    reply = _reply("one of these four.")
    strict = parse("cqa", reply, CHOICES, mode="strict")
    assert (strict.failed, strict.rationales) == ("no option letter after the marker", ())
    read = parse("cqa", reply, CHOICES)
    assert (read.failed, read.undecided) == (None, "no single option after the marker")
    assert (read.rationales, read.llm_label) == (("It must hold water.",), None)


def test_an_answer_that_is_not_there_fails():
    for answer in ("", " .", "**"):
        read = parse("cqa", f"It must hold water. So the answer is{answer}", CHOICES)
        assert (read.failed, read.rationales) == ("the reply breaks off within its answer", ())


ANOTHER = "another answer at a further marker, or a correction"
HARBOUR = ("attic", "harbour", "oven", "pocket", "stable")


@pytest.mark.parametrize(
    "answer",
    [
        "(b) harbour.", ": (b) harbour.", "**(b) harbour**.", "b) harbour.", "B.", "harbour.", "option (b).",
        "$\\boxed{b}$.", "Harbour", "a harbour.", "the harbour", "[b]", "b", "B: harbour", "B - harbour", "b. harbour",
        "Option B: harbour.",
        "\n\n**B. harbour**", "`(b)`", "(b).</s>", "\\boxed{\\text{(b) harbour}}", "the letter b",
        "harbour, because boats float.", "probably (b) harbour.", "clearly harbour", "most likely (b)", "（b）harbour",
        "(b) harbour. So the answer is harbour.", "(b) harbour. No other place will do.", "(b). Thus, the answer is (b).",
        "(b) harbour. Wait, pocket is small.",
        ': "harbour".', "(B)", "b) harbour. Let me know if you need more!", "(b) harbour.<|eot_id|>", "**b**",
    ],
)  # fmt: skip
def test_one_choice_in_all_its_spellings(answer):
    read = parse("cqa", f"Boats float. So the answer is {answer}", HARBOUR)
    assert (read.rationales, read.llm_label, read.undecided) == (("Boats float.",), "harbour", None)


@pytest.mark.parametrize(
    "answer",
    [
        "harbour or attic",
        "a or b",
        "b/c",
        "not (b)",
        "a big harbour",
        "harbour, attic",
        "none of them",
        "either b) or c)",
    ],
)
def test_no_choice_or_several_are_undecided(answer):
    read = parse("cqa", f"Boats float. So the answer is {answer}", HARBOUR)
    assert (read.rationales, read.llm_label) == (("Boats float.",), None)
    assert read.undecided


@pytest.mark.parametrize("spelling", ["({})", "[{}]", "{})", "{}.", "{}"])
@pytest.mark.parametrize(
    "between", [" or ", "/", " / ", " and ", " & ", ", ", ", or ", " and/or ", " or possibly ", " "]
)
@pytest.mark.parametrize("before", ["", "**", "option ", "either "])
def test_letters_of_two_options_are_undecided(spelling, between, before):
    if between == " " and spelling[0] not in "([":
        between = " or "  # "b d" may be words
    for first, second in (("b", "d"), ("D", "A"), ("a", "c")):
        answer = before + spelling.format(first) + between + spelling.format(second)
        read = parse("cqa", f"Boats float. So the answer is {answer}", HARBOUR)
        assert (read.rationales, read.llm_label) == (("Boats float.",), None), answer
        assert read.undecided


@pytest.mark.parametrize(
    "answer",
    [
        "(b) or (b)", "(b), not (d)", "(b) and not (d)", "(b)\n(c) is too small", "(b) harbour or (d) pocket",
        "b) harbour or d)",
        "(b) or harbour", "(b) (a harbour)", "(b), a harbour", "b, a harbour", "(b) order", "(b), because (d) is small",
    ],
)  # fmt: skip
def test_a_letter_is_an_answer_where_no_other_one_follows_directly(answer):
    read = parse("cqa", f"Boats float. So the answer is {answer}", HARBOUR)
    assert (read.llm_label, read.undecided) == ("harbour", None)


@pytest.mark.parametrize(
    "answer",
    [
        "(a) attic.\n\nWait, boats are big. So the answer is (b) harbour.", "(a) attic... no, (b) harbour.",
        "attic. Sorry, harbour", "(a). Therefore, the answer is (b).", "（a）. No, （b）",
    ],
)  # fmt: skip
def test_a_reply_that_answers_twice_is_undecided(answer):
    read = parse("cqa", f"Boats float. So the answer is {answer}", HARBOUR)
    assert (read.rationales, read.llm_label, read.undecided) == (("Boats float.",), None, ANOTHER)
    invented = parse(
        "cqa", "Boats float. So the answer is (b) harbour.\n\nQ: What?\nA: So the answer is (a) attic.", HARBOUR
    )
    assert invented.llm_label == "harbour"


@pytest.mark.parametrize("end", ["Thus, (b) or (d) is the answer.", "Thus, a boat is the best choice.", "(b) is one."])
def test_other_words_around_no_single_option_are_no_marker(end):
    assert parse("cqa", f"Boats float. {end}", HARBOUR).failed == "no answer marker"


@pytest.mark.parametrize(
    ("name", "answer", "label"),
    [
        ("svamp", "The answer is (5 + 1). Wait. The answer is (6 + 1).", None),
        ("svamp", "The answer is 5... no, 6.", None),
        ("svamp", "The answer is (5 + 1). So the answer is 6.", "(5 + 1)"),
        ("esnli", "Answer: neutral... no, contradiction", None),
        ("esnli", "Answer: neutral.\n\nHmm. Answer: contradiction", None),
        ("esnli", "Answer: neutral. No, contradiction would need more.", "neutral"),
        ("anli1", "So the answer is neutral. So the answer is entailment.", None),
    ],
)
def test_equations_and_labels_that_are_corrected_are_undecided(name, answer, label):
    read = parse(name, f"It is so. {answer}")
    assert (read.rationales, read.llm_label) == (("It is so.",), label)
    assert read.undecided == (None if label else ANOTHER)


def test_a_letter_in_a_choice_is_no_option_letter():
    names = ("d. h. lawrence", "a. a. milne", "b", "c")
    assert parse("cqa", "A poet. So the answer is a. a. milne.", names).llm_label == "a. a. milne"
    assert parse("cqa", "A poet. So the answer is D. H. Lawrence.", names).llm_label == "d. h. lawrence"


@pytest.mark.parametrize(
    "end",
    [
        "Therefore, the answer is (b) harbour.", "**Final Answer:** (b) harbour", "\n\n**So the answer is (b) harbour.**",
        "So the **answer** is (b).", "so the answer is (b)", "The correct answer is: (b)", "\n\nAnswer: B",
        "\n\n### Answer\n\n(b) harbour", "\n\n## **Final answer:**\nharbour", "\n---\n*So the answer is b*",
        "Thus, the final answer is $\\boxed{b}$.", "$\\boxed{b}$", "**Answer:** (b) harbour", "__Answer__: B",
        "Thus, (b) harbour is the answer.", "So harbour must be the correct answer.",
    ],
)  # fmt: skip
def test_other_words_in_front_of_an_answer(end):
    read = parse("cqa", f"Boats float. {end}", HARBOUR)
    assert (read.rationales, read.llm_label) == (("Boats float.",), "harbour")


def test_thoughts_are_not_the_reasons_and_their_answers_not_the_answer():
    thought = "Attic? So the answer is (a) attic? No."
    good = "Boats float. So the answer is (b) harbour."
    for reply in (
        f"<think>{thought}</think>\n\n{good}",
        f"{thought}</think>\n\n{good}",
        f"<thinking>{thought}</thinking>{good}",
        f"<reasoning>\n{thought}\n</reasoning>\n{good}",
        f"[THINK]{thought}[/THINK]{good}",
        f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{good}<|return|>",
    ):
        read = parse("cqa", reply, HARBOUR)
        assert (read.rationales, read.llm_label) == (("Boats float.",), "harbour"), reply
    for reply in (
        f"<think>{thought}",
        f"<|channel|>analysis<|message|>{thought}",
        f"[THINK]{thought}",
        f"<think>{thought}</think>",
    ):
        read = parse("cqa", reply, HARBOUR)
        assert (read.rationales, read.llm_label) == ((), None)
        assert read.failed in ("the reply is an unfinished thought", "no text after the thoughts")
    strict = parse("cqa", f"<think>{thought}</think>", HARBOUR, mode="strict")
    assert strict.label == "attic? No.</think>", "strict reads as the published code does"


def test_strict_needs_exactly_one_marker():
    reply = "First. So the answer is (a) x. No. So the answer is (b) pond."
    assert parse("cqa", reply, CHOICES, mode="strict").failed
    assert parse("cqa", reply, CHOICES).undecided == ANOTHER


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


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        (": ((40 + 15) / 5).", "((40 + 15) / 5)"),
        ("**((40 + 15) / 5)**.", "((40 + 15) / 5)"),
        ("((40 + 15) / 5) = 11.", "((40 + 15) / 5)"),
        ("$\\boxed{11}$.", "11"),
        ("2 x 5 + 1.", "2 * 5 + 1"),
        ("x = 14", "14"),
        ("Total = 55 / 5 = 11", "55 / 5"),
        ("(40 + 15) / 5 = 12", None),
        ("$\\frac{40 + 15}{5} = 11$", "(40 + 15)/(5)"),
        ("**11** plums", "11"),
        ("$\\boxed{11}$ plums.", "11"),
        ("$\\boxed{\\frac{40 + 15}{5}}$ plums for each child. Do you need more?", "(40 + 15)/(5)"),
        ("(40 + 15) plums", "(40 + 15)"),
        ("(40 + 15) plums or (40 + 16) plums", None),
        ("\n\n$$\n\\boxed{11}\n$$", "11"),
        ("\\(55 \\div 5 = 11\\).", "55 / 5"),
        ("\\boxed{(40 + 15) / 5}", "(40 + 15) / 5"),
        ("$11. Let me know if you need more!", "11"),
        ("2 ** 3 = 8", "2 ** 3"),
        ("`(40+15)/5`", "(40+15)/5"),
        ("40 + 15 = 55, 55 / 5 = 11", None),
        ("1,100 \\text{ plums}", "1100"),
        ("(40 + 15) ÷ 5 = **11**", "(40 + 15) / 5"),
        ("**(40 + 15) / 5 = 11** plums per child.", "(40 + 15) / 5"),
        ("6 \\times 7", "6 * 7"),
        ("(7x = 14)", None),
        ("11.<|im_end|>", "11"),
    ],
)
def test_equations_of_chat_models(answer, label):
    read = parse("svamp", f"There were 40. The answer is {answer}")
    assert (read.rationales, read.llm_label) == (("There were 40.",), label)
    assert (read.undecided is None) == (label is not None)


@pytest.mark.parametrize(
    "end",
    [
        "So the answer is 6 * 7.",
        "\n#### 42",
        "$\\boxed{42}$",
        "\n\n**Final answer:** 42",
        "Therefore, the answer is **42**.",
    ],
)
def test_other_words_in_front_of_an_equation(end):
    read = parse("svamp", f"There were 40. {end}")
    assert read.rationales == ("There were 40.",)
    assert arithmetic.evaluate(read.llm_label) == 42


@pytest.mark.parametrize(
    ("reply", "rationale", "label"),
    [
        ("6*8=<<6*8=48>>48 pears.\n#### 48", "6*8=48 pears.", "48"),
        ("#### Boxes\n6 of 8.\n#### 1,048", "#### Boxes\n6 of 8.", "1048"),
        (
            "After one day the answer is 8 pears. Six days:\n#### 48",
            "After one day the answer is 8 pears. Six days:",
            "48",
        ),
        ("Six of eight. The answer is 6 * 8.\n#### 48", "Six of eight.", "6 * 8"),
        ("Six of eight. The answer is <<6*8=48>>48.\n#### Check\n7 is wrong", "Six of eight.", "48"),
        ("Six of eight.\n#### 48\n\nQ: What next?\n#### 3", "Six of eight.", "48"),
        ("Six of eight.\n#### many", "Six of eight.", None),
    ],
)
def test_the_answer_after_hashes(reply, rationale, label):
    read = parse("svamp", reply)
    assert (read.rationales, read.llm_label) == ((rationale,), label)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        (" **Contradiction**", "contradiction"),
        (" neutral because the premise says nothing", "neutral"),
        ("** The answer is neutral.", "neutral"),
        (" (neutral)", "neutral"),
        ("\nentailment.</s>", "entailment"),
        (" entailment or neutral", None),
        (" not entailment", None),
        (" there is no contradiction", None),
        (" non-entailment", None),
        (" it cannot be entailment.", None),
        (" No, it is a contradiction.", "contradiction"),
    ],
)
def test_nli_answers_of_chat_models(answer, label):
    read = parse("esnli", f"A man sits.\n\n**Answer:{answer}")
    assert (read.rationales, read.llm_label) == (("A man sits.",), label)


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
        ("svamp", _reply("(6 * 6) / 6.", marker="The answer is"), (), "the expression continues after its brackets"),
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


@settings(max_examples=200)
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


@settings(max_examples=100)
@given(_WORDS, st.lists(_WORDS, min_size=2, max_size=5, unique=True), st.data())
def test_a_well_formed_reply_is_read_back(rationale, choices, data):
    index = data.draw(st.integers(0, len(choices) - 1))
    reply = _reply(f"({'abcde'[index]}) {choices[index]}.", rationale + ".")
    read = parse("cqa", reply, choices)
    assert (read.rationales, read.llm_label) == ((rationale + ".",), choices[index])
    strict = parse("cqa", reply, choices, mode="strict")
    assert (strict.rationale, strict.label) == (rationale + ".", choices[index])


@pytest.mark.parametrize("name", parsers.NAMES)
@pytest.mark.parametrize(
    "filler",
    [
        "\n",
        " ",
        "\n ",
        "Q",
        "\nQ ",
        "**",
        "* ",
        '"',
        "<think>",
        "</think>",
        "```\n",
        "the answer ",
        "\\boxed{",
        "( ",
        "{",
        "= 1 ",
    ],
)
def test_a_long_run_of_anything_takes_no_time(name, filler):
    started = time.monotonic()
    parsers.parse(name, "It is so. " + filler * 20_000 + "So the answer is (a) x. The answer is (1 + 1).", ("x", "y"))
    parsers.parse(name, "It is so. So the answer is The answer is Answer:" + filler * 20_000, ("x", "y"))
    assert time.monotonic() - started < 5.0


def test_what_stands_behind_a_label_of_esnli_is_no_unit():
    found = parsers.difference("esnli", "A man sits. Answer: neutral\n\nPre")
    assert found is not None
    assert found.reasons == ("text after the label",)
    found = parsers.difference("esnli", "A man sits. Answer: Neutral.")
    assert found is not None
    assert found.reasons == ("upper and lower case, spaces or punctuation",)


def test_the_problem_of_a_reply_has_the_text_after_its_rationale():
    reply = "Boats float. So the answer is (b) or (d)."
    assert parse("cqa", reply, HARBOUR).problem(reply) == (
        "undecided", "several option letters without their texts", "So the answer is (b) or (d)."
    )  # fmt: skip
    thinking = "Boats <b>float</b> <think>hm</think>. So the answer is (b) or (d)."
    assert parse("cqa", thinking, HARBOUR).problem(thinking)[2] == thinking, "its rationale is not literally there"
    assert parse("cqa", "No marker.", HARBOUR).problem("No marker.") == ("reply", "no answer marker", "No marker.")
    assert parse("cqa", "Boats float. So the answer is (b).", HARBOUR).problem("") is None
