import io
import json

import pytest
import rich.console
import seqio

from distill.data import report as data_report
from distill.data import report_text
from distill.tasks import cqa, jsonl, records, registration, svamp
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record
from distill.tools import vocabulary

BYTES = seqio.ByteVocabulary()
CHOICES = ["shelf", "pond", "zoo"]
REPLIES = [
    "It is flat. So the answer is (a) shelf.",
    "It is wet. So the answer is (b) Pond.",
    "Many. So the answer is either (a) shelf or (c) zoo.",
    "Nothing of the kind.",
]


@pytest.fixture
def dataset(tmp_path):
    rows = [
        {"input": f"q{n}", "label": label, "choices": CHOICES, "reply": reply}
        for n, (label, reply) in enumerate(zip(["shelf", "pond", "zoo", "zoo"], REPLIES))
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n", encoding="utf-8")
    return jsonl.dataset(
        {"train": path}, name="places", answer="choice", parser="cqa", several_rationales=False, validation_fraction=0.0
    )


def test_the_report_counts_what_there_is(dataset):
    result = data_report.report([dataset], BYTES, {"inputs": 11, "targets": 5}, details=True)
    found = result["sets"]["places"]["train"]
    expected = {
        "rows": 4,
        "rejected": 1,
        "replies": 4,
        "parsed": 2,
        "failed": 1,
        "undecided": 1,
        "with_rationale": 3,
        "with_llm_label": 2,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["agreement"]["strict"]["share"] == 0.25
    assert found["agreement"]["improved"]["share"] == 0.5
    assert found["agreement"]["improved"]["share_low"] < 0.5 < found["agreement"]["improved"]["share_high"]
    assert found["differences"] == {"upper and lower case": 1, "several options, none of them first": 1}
    assert [row["line"] for row in found["differing_rows"]] == [2, 3]
    assert {problem["reason"]: problem["line"] for problem in found["failures"]} == {
        "several options, none of them first": 3,
        "no answer marker": 4,
        "not valid JSON": 5,
    }
    first, *others = [(row["line"], row["reason"].partition(": ")[2]) for row in found["truncated"]]
    assert first == (
        1,
        "rationale input 15 > 11, label target 6 > 5, rationale target 12 > 5 tokens",
    )
    assert [line for line, _ in others] == [
        2,
        3,
    ]  # line 4 has a label alone, and would be too long with an answer marker
    assert json.loads(json.dumps(result)) == result


def test_parsed_undecided_and_failed_add_up_where_replies_are_missing():
    def read(split, report):
        for number, kind in enumerate([None, records.UNDECIDED, records.REPLY, records.REPLY, records.REPLY]):
            origin = {"reply": REPLIES[0], "parser": "cqa"} if number < 3 else {}
            if kind is not None:
                report.add(kind, "a reason", id=str(number))
            yield Record(id=str(number), input=f"q{number}", choices=tuple(CHOICES), provenance=origin)

    read.splits = ("train",)
    places = Dataset("places", read, answer="choice", validation_fraction=0.0)
    found = data_report.split_report(places, "train", BYTES)
    assert [found[name] for name in ("rows", "replies", "parsed", "undecided", "failed")] == [5, 3, 1, 1, 3]


def test_the_rows_of_an_extraction_have_one_outcome_each_and_agreement_is_over_all_gold_labels(tmp_path):
    rows = [{"input": f"q{n}", "label": "yes", "llm_label": "yes", "rationales": ["why"]} for n in range(3)]
    rows[2]["llm_label"] = "no"
    rows += [{"input": "q3", "label": "yes", "rationales": ["why"]}, {"input": "q4", "label": "yes", "rationales": []}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text('{"input": "q5", "label": "no"}\n')
    files = {"train": path, "test": tmp_path / "test.jsonl"}
    mine = jsonl.dataset(files, name="mine", validation_fraction=0.0)
    found = data_report.report([mine], BYTES, details=True)["sets"]["mine"]
    names = ("rows", "with_llm_label", "parsed", "undecided", "failed")
    assert [found["train"][name] for name in names] == [5, 3, 3, 1, 1]
    assert (found["train"]["agreement"]["improved"]["share"], found["train"]["agreement"]["strict"]) == (0.4, None)
    lacking = [row["line"] for row in found["train"]["lacking"] if row["reason"] == "no teacher's label"]
    assert lacking == [4, 5]
    assert [found["test"][name] for name in names] == [1, 0, 0, 0, 0] and found["test"]["agreement"]["improved"] is None


def test_lengths_count_prefix_and_eos_and_what_would_be_cut(dataset):
    found = data_report.report([dataset], BYTES, {"inputs": 11, "targets": 5})["sets"]["places"]["train"]
    assert "failures" not in found
    inputs = found["lengths"]["label_inputs"]
    assert inputs["p50"] == inputs["p100"] == len("[label] q0") + 1
    assert inputs["truncated"] == 0.0
    assert found["lengths"]["rationale_inputs"]["truncated"] == 1.0
    targets = found["lengths"]["label_targets"]
    assert (targets["sequences"], targets["p100"], targets["truncated"]) == (4, 6, 0.25)
    longer = data_report.report([dataset], BYTES, {"inputs": 11, "targets": 5}, encoder_bos=True)["sets"]["places"][
        "train"
    ]
    assert longer["lengths"]["label_inputs"]["truncated"] == 1.0
    assert longer["lengths"]["label_targets"] == targets
    without_limits = data_report.report([dataset], BYTES)["sets"]["places"]["train"]
    assert "truncated" not in without_limits["lengths"]["label_inputs"]


def test_the_targets_of_the_single_task_have_the_lengths_that_training_has(tmp_path):
    model = tmp_path / "letters.model"
    model.write_bytes(vocabulary.train(["So the answer is a cat sat on the mat, because 12"] * 9, 30))
    rows = [{"input": "a", "label": "cat", "rationale": "a mat"}, {"input": "b", "label": "12"}, {"input": "c"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = jsonl.dataset({"train": tmp_path / "rows.jsonl"}, name="single_lengths", validation_fraction=0.0)
    for given in (str(model), "bytes"):
        task = registration.get(registration.register(dataset, given).single)
        found = data_report.report([dataset], given)["sets"]["single_lengths"]["train"]["lengths"]["single_targets"]
        trained = [len(row["targets"]) for row in task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()]
        assert found["sequences"] == len(trained) == 2
        assert (found["mean"], found["p100"]) == (sum(trained) / 2, max(trained))


def test_every_text_is_encoded_once(tmp_path):
    class Counting:
        vocab_size, unk_id = 384, None

        def __init__(self):
            self.encoded = []

        def encode(self, text):
            self.encoded.append(text)
            return text

    rows = [Record(str(n), f"q{n}", label=f"l{n}", llm_label=f"l{n % 2}", rationales=(f"r{n}",)) for n in range(4)]
    source = lambda split: iter(rows)  # noqa: E731
    source.splits = ("train",)
    counting = Counting()
    data_report.report([Dataset("once", source, validation_fraction=0.0)], counting)
    by_row = {row.id: [text for text in counting.encoded if text.endswith(row.id)] for row in rows}
    for text in ("[label] q3", "[rationale] q3", "l3", "r3", " So the answer is l3"):
        assert by_row["3"].count(text) == 1
    assert len(by_row["3"]) == 5 and "q3" not in by_row["3"]


def test_the_whole_training_file_is_reported_beside_its_parts():
    rows = [Record(id=str(n), input=f"q{n}", label="yes") for n in range(50)]
    source = lambda split: iter(rows)  # noqa: E731
    source.splits = ("train",)
    found = data_report.report([Dataset("cut", source)], BYTES)["sets"]["cut"]
    assert list(found) == ["train+validation", "train", "validation"]
    assert found["train+validation"]["rows"] == 50 == found["train"]["rows"] + found["validation"]["rows"]
    assert found["train"]["agreement"] == {"strict": None, "improved": None}
    assert found["train"]["lengths"]["rationale_targets"] == {"sequences": 0}


def test_rendering_shows_the_figures_and_the_rows(dataset):
    def printed(**settings):
        out = io.StringIO()
        result = data_report.report([dataset], BYTES, {"inputs": 11, "targets": 5}, **settings)
        report_text.render(result, rich.console.Console(file=out, width=200))
        return out.getvalue()

    text = printed()
    assert "50.00% (15.0%–85.0%)" in text
    assert "25.00%" in text
    assert "1  no answer marker" in text
    assert "Nothing of the kind." not in text
    assert "rows.jsonl:4  no answer marker — 'Nothing of the kind.'" in printed(details=True)


def test_the_published_metrics_accidents_are_repeated_only_in_strict():
    assert data_report.strict_agreement("equation", "( 30.0 / 2.0 )", "((29/2) and (30/2))")
    assert not data_report.strict_agreement("equation", "( 14.0 )", "(14, 21)")
    assert not data_report.strict_agreement("choice", "pond", "Pond")
    assert not data_report.strict_agreement("text", "neutral", "neutral.")


def test_on_the_papers_data(paper_data):
    result = data_report.report([svamp.dataset(paper_data), cqa.dataset(paper_data)], BYTES)["sets"]
    assert result["cqa"]["train+validation"]["agreement"]["strict"]["share"] == pytest.approx(0.7426, abs=5e-5)
    assert result["cqa"]["test"]["agreement"]["strict"]["share"] == pytest.approx(0.7723, abs=5e-5)
    assert result["svamp"]["train+validation"]["agreement"]["strict"]["share"] == pytest.approx(0.735)
    assert result["svamp"]["test"]["agreement"]["strict"]["share"] == pytest.approx(0.740)
    assert result["cqa"]["train+validation"]["agreement"]["improved"]["share"] == pytest.approx(0.758, abs=5e-4)
    assert result["cqa"]["test"]["agreement"]["improved"]["share"] == pytest.approx(0.788, abs=5e-4)


def test_texts_with_unknown_tokens_are_counted_and_their_characters_named(tmp_path):
    model = tmp_path / "letters.model"
    model.write_bytes(vocabulary.train(["[label] [rationale] a cat sat on the mat"] * 9, 24))
    rows = [
        {"input": "a cat", "label": "7 + 7", "rationale": "the cat"},
        {"input": "a 7", "label": "a", "rationale": "7 é"},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="mine", validation_fraction=0.0)
    result = data_report.report([dataset], str(model))
    assert result["sets"]["mine"]["train"]["unknown"] == {
        "input": {"texts": 2, "unknown": 1, "characters": {"7": 1}},
        "label": {"texts": 2, "unknown": 1, "characters": {"+": 1, "7": 1}},
        "rationale": {"texts": 2, "unknown": 1, "characters": {"7": 1, "é": 1}},
    }
    held = io.StringIO()
    report_text.render(result, rich.console.Console(file=held, width=200))
    sentence = "mine train: 1 of 2 labels has tokens that the vocabulary does not know, from the characters '+' and '7'"
    assert sentence in held.getvalue()
    assert data_report.report([dataset], BYTES)["sets"]["mine"]["train"]["unknown"] == {}


def test_labels_that_are_not_arithmetic_are_counted_for_equations(tmp_path):
    labels = ["( 7 + 5 )", "12", "because it is", "7 apples"]
    rows = "".join(json.dumps({"input": f"q{label}", "label": label}) + "\n" for label in labels)
    (tmp_path / "train.jsonl").write_text(rows)
    printed = {}
    for answer in ("equation", "text"):
        dataset = jsonl.dataset(
            {"train": tmp_path / "train.jsonl"}, name="mine", answer=answer, validation_fraction=0.0
        )
        result = data_report.report([dataset], BYTES)
        held = io.StringIO()
        report_text.render(result, rich.console.Console(file=held, width=200))
        printed[answer] = result["sets"]["mine"]["train"]["no_value"], held.getvalue()
    assert printed["equation"][0] == 2 and printed["text"][0] == 0
    sentence = (
        "mine train: 2 of 4 gold labels are not arithmetic, so no answer counts as right (first: 'because it is', "
    )
    assert sentence in printed["equation"][1] and "train.jsonl:3)" in printed["equation"][1]
    assert "arithmetic" not in printed["text"][1]
