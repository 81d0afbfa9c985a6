"""What is taken off a chat model's reply, and what stays."""

import pytest

from distill.tasks import reply_text
from distill.tasks.reply_text import label_text, open_reply, undecorated


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<think>x</think>\n\nA.", "A."),
        ("x y</think>\n\nA.", "A."),
        ("<THINKING>a<think>b</think>c</THINKING>A.", "A."),
        ("<thought>x</thought>A.", "A."),
        ("<seed:think>x</seed:think>A.", "A."),
        ("<reasoning>x</reasoning><answer>A.</answer>", "<answer>A.</answer>"),
        ('<details type="reasoning" done="true">x</details>A.', "A."),
        ("◁think▷x◁/think▷A.", "A."),
        ("<|begin_of_thought|>x<|end_of_thought|>A.", "A."),
        ("First. <think>x</think>Second.", "First. Second."),
        ("<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>A.<|return|>", "A."),
        ("analysisThe writer wants.assistantfinalA.", "A."),
        ("<|im_start|>assistant\nA.<|im_end|>\n<|im_start|>user\nB.", "A."),
        ("<|start_header_id|>assistant<|end_header_id|>\n\nA.<|eot_id|>", "A."),
        ("<s>A.</s>", "A."),
        ("A.<end_of_turn>\n", "A."),
        ("A.<｜end▁of▁sentence｜>", "A."),
        ("```\nA.\n```", "A."),
        ("```text\nA.", "A."),
        ("A.\n```\ncode\n```\nB.", "A.\n```\ncode\n```\nB."),
        ("I think <b>so</b>. 3 < 4 and x</y.", "I think <b>so</b>. 3 < 4 and x</y."),
        ("analysis of the case: A.", "analysis of the case: A."),
    ],
)
def test_what_surrounds_a_reply_is_taken_off(reply, text):
    opened = open_reply(reply)
    assert (opened.text.strip(), opened.trouble) == (text, "")


@pytest.mark.parametrize(
    ("reply", "text", "trouble"),
    [
        ("<think>So the answer is A", "", reply_text.STILL_THINKING),
        ("<think>a</think>Part. <think>b", "Part.", reply_text.STILL_THINKING),
        ("<|channel|>analysis<|message|>So the answer is A", "", reply_text.STILL_THINKING),
        ("analysisThe writer wants", "", reply_text.STILL_THINKING),
        ("<think>all of it</think>\n", "", reply_text.ONLY_THOUGHTS),
    ],
)
def test_thoughts_without_an_end_are_trouble(reply, text, trouble):
    opened = open_reply(reply)
    assert (opened.text.strip(), opened.trouble) == (text, trouble)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("**loans**.", "loans"),
        ("loans.**", "loans"),
        ('"loans".', "loans"),
        ('loans."', "loans"),
        ("“loans”", "loans"),
        (": loans.", "loans"),
        (":** loans", "loans"),
        ("\n\n- `loans`", "loans"),
        ("loans. Let me know if you need anything else!", "loans"),
        ("loans.\n\nLet me know.", "loans"),
        ("<answer>loans</answer>", "loans"),
        ("yes. Thanks", "yes"),
        ("St. Louis. Let me know", "St. Louis"),
        ("the U.S. Navy.", "the U.S. Navy"),
        ("3.5.", "3.5"),
        ("-1", "-1"),
        ("don't.", "don't"),
        ("loans desk", "loans desk"),
        ("", ""),
        (".", ""),
    ],
)
def test_labels_that_are_free_text(answer, label):
    assert label_text(answer) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Loans.", "loans"),
        ("loans, because maps are lent", "loans"),
        ("loans (a map is borrowed)", "loans"),
        ("loans - they lend", "loans"),
        ("Loans!", "loans"),
        ("U.S.", "U.S."),
        ("loans or returns", "loans or returns"),
        ("loans, returns", "loans, returns"),
        ("the loans desk", "the loans desk"),
    ],
)
def test_labels_that_are_known(answer, label):
    assert label_text(answer, known=("loans", "returns", "U.S.")) == label


def test_decoration_is_taken_off_in_layers():
    assert undecorated('**"`loans`"**') == "loans"
    assert undecorated("$\\boxed{\\text{harbour}}$.") == "harbour"
    assert undecorated("f(x) and *a* or *b*") == "f(x) and *a* or *b*"
    assert undecorated('"yes" or "no"') == '"yes" or "no"'


def test_a_rule_before_the_answer_is_not_part_of_the_rationale():
    assert reply_text.split_at_marker("Boats float.\n\n---\n\n**So the answer is b**", ("So the answer is",)) == (
        "Boats float.",
        "b**",
    )
    assert reply_text.split_at_marker("**Boats float.** So the answer is b", ("So the answer is",)) == (
        "**Boats float.**",
        "b",
    )
