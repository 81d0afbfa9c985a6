"""Prompt files: what is checked, what is filled in, and what a row's text cannot do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.tasks import parsers
from distill.teacher import PromptError
from distill.teacher.prompts import parsing, templates

SIMPLE = """
question: "Q: {input}\\nA:"
answer: "{rationale} So the answer is {label}."
examples:
  - input: Is ice cold?
    rationale: Ice is frozen water.
    label: "yes"
"""


def simple(**changes):
    text = SIMPLE
    for key, line in changes.items():
        text = "\n".join(line if row.startswith(f"{key}:") else row for row in text.split("\n"))
        if f"\n{key}:" not in SIMPLE:
            text += f"\n{line}"
    return templates.parse(text, "mine.yaml")


@pytest.mark.parametrize("name", templates.names())
def test_every_prompt_that_comes_along_reads_its_own_answers_back(name):
    prompt = templates.load(name)
    assert len(prompt.examples) >= 3 and prompt.instructions and prompt.stop and prompt.rationalise
    for example in prompt.examples:
        parsed = parsing.read_text(prompt, prompt.fill_answer(example.rationale, example.label))
        assert parsed.rationale == example.rationale and parsed.llm_label
        answer, next_question = (
            prompt.fill_answer(example.rationale, example.label),
            prompt.fill_question(example.input),
        )
        run_on = f" {answer}\n\n{next_question} {example.rationale}"
        assert parsing.read_text(prompt, run_on) == parsed, "a reply that runs on into a new question reads the same"


def test_there_is_a_prompt_for_each_of_the_sets():
    assert set(parsers.NAMES) <= set(templates.names())
    assert {prompt.parser for prompt in map(templates.load, parsers.NAMES)} == set(parsers.NAMES)


def test_both_forms_of_a_prompt():
    prompt = simple(instructions="instructions: Be brief.")
    assert prompt.text("Is fire hot?") == (
        "Be brief.\n\nQ: Is ice cold?\nA: Ice is frozen water. So the answer is yes.\n\nQ: Is fire hot?\nA:"
    )
    assert [(message.role, message.content) for message in prompt.messages("Is fire hot?")] == [
        ("system", "Be brief."),
        ("user", "Q: Is ice cold?\nA:"),
        ("assistant", "Ice is frozen water. So the answer is yes."),
        ("user", "Q: Is fire hot?\nA:"),
    ]
    assert prompt.stop == ("\nQ:",) and prompt.marker == "So the answer is" and prompt.tail == "."


def test_parts_choices_and_braces():
    prompt = templates.parse(
        """
parts: {separator: "</s>", names: [premise, hypothesis]}
question: "P {{1}}: {premise}\\nH: {hypothesis}\\n{choices}\\nWhy:"
answer: "{rationale}\\nTherefore: {label}"
examples:
  - {input: "a</s>b", rationale: none, label: "no", choices: ["no", "yes"]}
""",
        "parts",
    )
    assert prompt.fill_question(" p </s>h {x}", ("u", "v")) == "P {1}: p\nH: h {x}\n(a) u\n(b) v\nWhy:"
    with pytest.raises(templates.InputShapeError, match="3 parts between '</s>'; expected premise, hypothesis"):
        prompt.fill_question("a</s>b</s>c")


def test_anything_that_is_asked_changes_the_hash_and_the_name_does_not():
    prompt = simple()
    assert templates.parse(SIMPLE, "other").hash == prompt.hash
    assert templates.parse(SIMPLE.replace("cold", "wet"), "mine.yaml").hash != prompt.hash
    assert simple(instructions="instructions: x").hash != prompt.hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"question": 'question: "Q: {imput}"'},
            r"mine.yaml: question: no placeholder \{imput\}; did you mean \{input\}\?",
        ),
        ({"question": 'question: "Q: what?"'}, r"question: \{input\} is missing"),
        ({"question": 'question: "{input}"'}, "must begin with a word such as"),
        ({"question": 'question: "Q: {input.__class__}"'}, "placeholders are plain names"),
        ({"question": 'question: "Q: {input!r}"'}, "placeholders are plain names"),
        ({"question": 'question: "Q: {input"'}, "write {{ and }} for braces"),
        ({"question": 'question: "Q: {}"'}, "placeholders are plain names"),
        ({"question": "question: 5"}, "YAML reads 5 as a int; put it in quotes"),
        ({"answer": 'answer: "{label} because {rationale}"'}, "the rationale comes before the label"),
        ({"answer": 'answer: "{rationale} {label}"'}, "no text between"),
        ({"answer": 'answer: "{rationale}."'}, r"\{label\} is missing"),
        ({"answer": 'answer: "{rationale} is {label} or {label}"'}, "each once"),
        ({"parser": "parser: svanp"}, "no parser named 'svanp'; did you mean 'svamp'?"),
        (
            {"parser": "parser: svamp"},
            "example 1: 'svamp' does not parse its answer back: the answer is not arithmetic",
        ),
        ({"rationalise": 'rationalise: "Q: {input}"'}, r"rationalise: \{label\} is missing"),
        ({"hint_words": "hint_words: given"}, "hint_words: expected a list of texts"),
        ({"examples": "examples: none\nx:"}, "unknown entry 'x'"),
        ({"examples": "exampels:"}, "unknown entry 'exampels'; did you mean 'examples'?"),
        ({"instructions": "instructions: [a"}, "mine.yaml: not YAML"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(PromptError, match=message):
        simple(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just text", "expected a mapping"),
        ("question: 'Q: {input}'\nanswer: '{rationale} so {label}'", "the entry 'examples' is missing"),
        ("question: 'Q: {input}'\nanswer: '{rationale} so {label}'\nexamples: []", "at least one worked example"),
        (SIMPLE.replace("label:", "lable:"), "example 1: unknown entry 'lable'; did you mean 'label'?"),
        (SIMPLE.replace('"yes"', "yes"), "YAML reads True as a bool; put it in quotes"),
        (SIMPLE.replace("Ice is frozen water.", '" "'), "rationale: expected text"),
        (SIMPLE.replace("Ice is frozen water.", "So the answer is no"), "does not parse its answer back"),
    ],
)
def test_mistakes_of_shape_are_named(text, message):
    with pytest.raises(PromptError, match=message.replace("?", r"\?")):
        templates.parse(text, "mine.yaml")


def test_missing_files_suggest_what_is_there(tmp_path):
    with pytest.raises(PromptError, match=r"no prompt file 'svmp'; did you mean 'svamp'\?"):
        templates.load("svmp")
    broken = tmp_path / "latin.yaml"
    broken.write_bytes("question: caf\xe9".encode("latin-1"))
    with pytest.raises(PromptError, match="not UTF-8"):
        templates.load(broken)


PIECES = [
    "Q:",
    "A:",
    "q:",
    " ",
    "\n",
    "\r\n",
    "\r",
    "\u2028",
    "\x85",
    "\x0b",
    "\x1c",
    "{input}",
    "{",
    "}}",
    "x",
    "So the answer is",
    ".",
]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=60)


@settings(max_examples=150)
@given(HOSTILE)
def test_no_input_can_begin_a_block_of_its_own(text):
    prompt = simple()
    question = prompt.fill_question(text)
    lines = [line for line in question.splitlines() if not line.startswith(" ")]
    starts = [line for line in lines if line.lower().startswith(("q:", "a:"))]
    assert [line[:2] for line in starts] == ["Q:", "A:"], "the template's own two lines and no others"
    assert question.split() == f"Q: {text}\nA:".split(), "nothing but white space is changed"


def test_holes_in_a_row_stay_as_they_are():
    assert "{rationale} {label} {0} {input}" in simple().text("{rationale} {label} {0} {input}")


def _bomb(levels):
    lines = ["instructions:", "  - &b0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"  - &b{n} [{','.join([f'*b{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(
        [*lines, "question: 'Q: {input}'", "answer: '{rationale} So the answer is {label}.'", "examples: []"]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_bomb(10), r"not YAML: line 3, column 10: the alias \*b0 refers to a list or mapping; write it out"),
        ("a: &a {b: c}\nd: {<<: *a}\n", r"the alias \*a refers to"),
        ("[" * 5000 + "]" * 5000, "nested too deeply|not YAML"),
        ("x: 2001-99-99", "not YAML"),
        ("# " + "x" * 2_000_000, "2,000,002 characters; a prompt file has at most 1,000,000"),
        ("question: [" + "x, " * 50_000 + "]", "the entry 'answer' is missing"),
    ],
)
def test_hostile_prompt_files_are_refused_at_once(text, message):
    import resource
    import time

    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PromptError, match=message) as refused:
        templates.parse(text, "mine.yaml")
    assert time.monotonic() - started < 10 and len(str(refused.value)) < 1_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "KiB"


def test_an_alias_of_a_text_is_fine():
    text = (
        SIMPLE.replace("rationale: Ice", "rationale: &why Ice")
        + "  - {input: 'Is snow cold?', rationale: *why, label: 'yes'}\n"
    )
    assert [example.rationale for example in templates.parse(text, "mine.yaml").examples] == [
        "Ice is frozen water."
    ] * 2
