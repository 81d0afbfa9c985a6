"""The README of an export: macros are read and never evaluated, weights are stated both ways."""

import errno
import json
import os

import pytest

from distill.inference import model_card


@pytest.mark.parametrize(
    "macros, expected",
    [
        ({}, "label + 1 · rationale (λ = 1)"),
        ({"LAMBDA": "0.5"}, "label + 0.5 · rationale (λ = 0.5)"),
        ({"ALPHA": "0.25", "LAMBDA": "9"}, "0.25 · label + 0.75 · rationale (λ = 3)"),
        ({"LAMBDA": "0.3", "ALPHA": "None"}, "label + 0.3 · rationale (λ = 0.3)"),
        ({"ALPHA": "0.8"}, "0.8 · label + 0.2 · rationale (λ = 0.25)"),
        ({"ALPHA": "0"}, "0 · label + 1 · rationale"),
        ({"LAMBDA": "@schedule()"}, "label + 1 · rationale (λ = 1)"),
        ({"ALPHA": "None", "LAMBDA": "@schedule()"}, "label + 1 · rationale (λ = 1)"),
    ],
)
def test_weights(macros, expected):
    assert model_card.weights_told(macros) == expected


@pytest.mark.parametrize(
    ("macros", "adapters", "frozen"),
    [
        ("LORA_RANK = None\nFROZEN = ()\n", None, None),
        (
            "LORA_RANK = 8\nLORA_ALPHA = 4.0\n",
            "rank 8 with α = 4, merged into the kernels that match `(attention",
            None,
        ),
        (
            "LORA_RANK = 2\nLORA_TARGETS = ('a|b', 'c')\nFROZEN = None\n",
            "rank 2 with α = 16, merged into the kernels that match `a\\|b`, `c`; nothing else was trained |",
            None,
        ),
        ("FROZEN = ('embedding$',)\n", None, "`embedding$`"),
        ("FROZEN = \\\n    ('a',\n     'b')\n", None, "the patterns in `config.gin`"),
    ],
)
def test_what_was_not_trained_whole_is_named(macros, adapters, frozen, tmp_path):
    (tmp_path / "config.gin").write_text(macros)
    text = card(tmp_path)
    assert ("| adapters |" in text) == (adapters is not None)
    assert adapters is None or f"| adapters | LoRA of {adapters}" in text
    assert ("| frozen |" in text) == (frozen is not None)
    assert frozen is None or f"| frozen | {frozen} |" in text


def test_macros_are_text():
    text = "LAMBDA = 0.5\nmodule.f.x = 3\n# NAME = 1\nCODE = __import__('os').abort()\nlower = 1\n"
    assert model_card.read_macros(text) == {"LAMBDA": "0.5", "CODE": "__import__('os').abort()"}


@pytest.mark.parametrize("content", [None, "{", "[1]", "\xff", "[" * 100_000])
def test_a_damaged_result_is_empty(tmp_path, content):
    if content is not None:
        (tmp_path / "result.json").write_bytes(content.encode("latin-1"))
    assert model_card.read_result(tmp_path) == {}


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_file_that_the_storage_cannot_read_is_not_missing(tmp_path, monkeypatch, number):
    def fail(path, **_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(type(tmp_path), "read_text", fail)
    for read in (model_card.read_result, model_card.target_length, card):
        with pytest.raises(OSError, match=os.strerror(number)) as error:
            read(tmp_path)
        assert error.value.errno == number


def card(folder, **options):
    arguments = {
        "parameters": 1234567,
        "step": 40,
        "usage": " print(1) ",
        "prefixes": {"label": "[label] "},
        "library": "flax",
    }
    model_card.write(folder / "README.md", folder, **{**arguments, **options})
    return (folder / "README.md").read_text()


def test_the_card_of_a_run(tmp_path):
    (tmp_path / "config.gin").write_text(
        "FORM = 'paired'\nDATASET = 'a|b'\nLAMBDA = 0.5\nSUBSAMPLE = 0.25\nLABEL_SOURCE = 'teacher'\n"
    )
    test = {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75, "note": "text"}
    (tmp_path / "result.json").write_text(json.dumps({"best": 0.625, "best_step": 40, "test": test}))
    text = card(tmp_path)
    for line in (
        "library_name: flax", "| data | a\\|b |", "| labels | the teacher's |", "| share of the training rows | 0.25 |",
        "| loss | label + 0.5 · rationale (λ = 0.5) |", "| parameters | 1,234,567 |", "| validation | 0.6250 (step 40) |",
        "| test accuracy | 0.5000 (95% interval 0.2500 to 0.7500) |", '- label: `"[label] "`', "print(1)",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "accuracy_low" not in text


def test_a_folder_without_a_run_is_not_described(tmp_path):
    text = card(tmp_path, dataset="mine", prompted=True)
    assert "| method | not recorded |" in text
    assert "| data | mine |" in text
    assert "The prefix is part of the target" in text
    assert "| loss |" not in text and "config.gin" not in text


@pytest.mark.parametrize("config", [None, "", "nonsense (((", "FORM = 'pa|red'\nALPHA = __import__('os')"])
@pytest.mark.parametrize("result", [None, "{", "[]", '{"best": null, "test": 3}', '{"test": {"accuracy": "high"}}'])
def test_cards_of_damaged_runs(config, result, tmp_path):
    for name, text in ((model_card.CONFIG, config), (model_card.RESULT, result)):
        if text is not None:
            (tmp_path / name).write_text(text)
    model_card.write(
        tmp_path / "README.md", tmp_path, parameters=1, step=None, usage="", prefixes={"label": "`"}, library="x"
    )
    assert "| parameters | 1 |" in (tmp_path / "README.md").read_text()


def test_the_card_of_a_student_of_googles_weights_names_their_terms(tmp_path):
    (tmp_path / "config.gin").write_text("FORM = 'paired'\nINITIAL_CHECKPOINT_PATH = 'google/t5gemma-2-270m-270m'\n")
    text = card(tmp_path, family="T5Gemma 2")
    assert "tags: [distilling-step-by-step, t5gemma2]\nlicense: gemma\n---" in text
    assert (
        "trained from google/t5gemma-2-270m-270m, a T5Gemma 2:" in text and "https://ai.google.dev/gemma/terms" in text
    )
    (tmp_path / "config.gin").write_text("INITIAL_CHECKPOINT_PATH = None\n")
    assert "gemma/terms" not in card(tmp_path, family="T5Gemma 2")
    assert "tags: [distilling-step-by-step, t5]\n" in card(tmp_path)


@pytest.mark.parametrize(
    ("config", "length"), [("TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 32}\n", 32), ("", 256)]
)
def test_a_rationale_has_its_own_length(config, length, tmp_path):
    (tmp_path / "config.gin").write_text(config)
    assert model_card.target_length(tmp_path) == length
    assert "needs its own length:\n\n```python\nprint(2)\n```" in card(tmp_path, rationale_usage="print(2)")
    assert "own length" not in card(tmp_path)
