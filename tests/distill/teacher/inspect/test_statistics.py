"""The report's figures, against numbers worked out by hand and against what training computes."""

import json
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from distill.tasks import cqa, metrics, svamp, task_ids
from distill.tasks.lengths import ruler
from distill.tasks.records import Record, SourceError
from distill.teacher.inspect import InspectConfig, charts, inspect
from distill.teacher.inspect.statistics import FLAGS, NORMALIZERS, Lengths, Plan, compute, effective_lambdas
from distill.training import losses, step

WORDS = ruler(None)


def flags_of(stats, row):
    return {FLAGS[n] for n in stats.flags[row]}


def test_balance_agreement_duplicates_and_flags():
    records = [
        Record("0", "Same  input", label="yes", llm_label="Yes", rationales=("a b c d",)),
        Record("1", "same input", label="no", llm_label="yes", rationales=("A  b c d", "other words here now")),
        Record("2", "third", label="no", rationales=()),
        Record("3", "fourth", llm_label="no", rationales=("no.",)),
        Record(
            "4", "fifth", label="(b) x", llm_label="x", choices=("w", "x"), rationales=("So the answer is x as said",)
        ),
    ]
    origin = [{}, {"votes": 2, "voters": 3}, {}, {"rationalised": True}]
    stats = compute(
        records,
        WORDS,
        Plan(inputs=3, targets=5),
        provenance=origin,
        failed=["2"],
        undecided=["1"],
        failures={"cut off": 2},
    )
    assert (stats.rows, stats.labelled, stats.answered, stats.explained, stats.told) == (5, 4, 4, 4, 1)
    assert stats.gold_balance == {"no": 2, "yes": 1, "(b) x": 1} and stats.positions == {"b": 1}
    assert (stats.compared, stats.agreed) == (3, 1)
    assert stats.disagreements == {("no", "yes"): 1, ("(b) x", "x"): 1}, "as text; as a choice the last would agree"
    assert (stats.duplicate_inputs, stats.contradictions) == (2, 2)
    assert stats.repeated == [("a b c d", 2)]
    assert stats.rationales == {0: 1, 1: 3, 2: 1} and stats.shares == [pytest.approx(2 / 3)]
    assert flags_of(stats, 0) == {"agrees", "input twice", "rationale twice"}
    assert flags_of(stats, 1) == {"disagrees", "input twice", "rationale twice", "undecided reply"}
    assert (stats.failed, stats.undecided) == (1, 1)
    assert flags_of(stats, 2) == {"no teacher label", "no rationale", "failed reply"}
    assert flags_of(stats, 3) == {"no gold label", "given the answer", "leak"}
    assert flags_of(stats, 4) == {"disagrees", "leak", "target cut"}
    assert set(stats.leaks) == {"the bare answer", "the answer marker within the rationale"}
    by_choice = compute(records, WORDS, Plan(), answer="choice")
    assert by_choice.agreed == 2
    assert json.loads(json.dumps(stats.to_json()))["flagged"]["leak"] == 2


def test_every_text_is_compared_once(monkeypatch):
    compared = []
    key = metrics.same_text_key
    monkeypatch.setattr(metrics, "same_text_key", lambda text: compared.append(text) or key(text))
    records = [Record(str(n), f"q{n}", label="a", rationales=(f"first {n}", f"second {n}")) for n in range(3)]
    compute(records, WORDS, Plan())
    texts = [text for record in records for text in (record.input, *record.rationales)]
    assert sorted(text for text in compared if text != "a") == sorted(texts)


def test_lengths_count_prefix_separator_and_eos(t5_vocabulary_path):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=t5_vocabulary_path)
    records = [Record("0", "A man runs.</s>He moves.", label="entailment", rationales=("Running is moving.",))]
    plan = Plan(separator="</s>", label_prefix="[label] ", rationale_prefix="[rationale] ")
    stats = compute(records, ruler(t5_vocabulary_path), plan)
    first = len(processor.encode("[rationale] A man runs.")) + 1
    assert stats.lengths[0].values == (first + len(processor.encode("He moves.")) + 1,)
    assert stats.lengths[1].values == (len(processor.encode("entailment")) + 1,)
    assert stats.lengths[2].values == (len(processor.encode("Running is moving.")) + 1,)


def test_rulers(t5_vocabulary_path):
    assert ruler("bytes").lengths(["é", ""]) == [3, 0]
    assert ruler(None).lengths(["two words"]) == [2]

    class Letters:
        def encode(self, text):
            return list(text)

    assert ruler(Letters()).lengths(["abc"]) == [4]
    with pytest.raises(FileNotFoundError, match=r"no vocabulary at nowhere\.model"):
        ruler("nowhere.model")


def test_percentiles_and_truncation():
    each = Lengths("inputs", tuple(range(1, 101)), limit=90)
    assert each.percentiles() == {50: 50, 90: 90, 95: 95, 99: 99, 100: 100}
    assert each.truncated == 0.1 and Lengths("x", ()).percentiles() == {} and Lengths("x", (), 3).truncated == 0


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_effective_lambda_is_what_training_computes(normalizer):
    lot = np.random.default_rng(0)
    rows, longest, lam = 40, 30, 0.7
    labels = lot.integers(1, 6, rows)
    rationales = lot.integers(0, 40, rows)
    weights = lot.uniform(0.2, 1.0, rows).astype(np.float32)
    plan = Plan(targets=longest, lam=lam, batch_size=rows)

    ids = np.zeros((2 * rows, longest), np.int32)
    token_weights = np.zeros((2 * rows, longest), np.float32)
    for n in range(rows):
        for row, task, length in ((n, task_ids.LABEL, labels[n]), (rows + n, task_ids.RATIONALE, rationales[n])):
            length = min(length, longest)
            ids[row, :length] = task
            token_weights[row, :length] = weights[n]
    loss = losses.TwoTaskLoss(lam=lam, normalizer=normalizer)
    got = losses.task_token_weights(
        jnp.asarray(token_weights), jnp.asarray(ids), loss.coefficients(jnp.int32(0)), normalizer
    )
    rationale, label = step.effective_lambda(got, jnp.asarray(ids))
    expected = effective_lambdas(weights.tolist(), labels.tolist(), rationales.tolist(), plan)[normalizer][0]
    assert float(rationale / label) == pytest.approx(expected, rel=1e-5)


def test_effective_lambda_of_mixtures_and_of_rare_rationales():
    plan = Plan(lam=2.0, label_rate=1.0, rationale_rate=3.0, batch_size=64)
    got = effective_lambdas([1.0] * 4, [2, 2, 2, 2], [10, 10, 0, 0], plan)
    assert got["all_tokens"] == (pytest.approx(2 * 20 / 8), pytest.approx(2 * (10 / 2) * 3))
    assert got["task_tokens"][1] == pytest.approx(2.0)
    rare = effective_lambdas([1.0] * 100, [2] * 100, [10] + [0] * 99, Plan(batch_size=10))
    assert rare["task_tokens"][0] == pytest.approx(1 - 0.99**10), "in the other batches there is nothing to weigh"
    assert all(math.isnan(value) for value in effective_lambdas([1.0], [0], [3], Plan())["all_tokens"])


@pytest.mark.parametrize(
    "changes", [{"lam": -1}, {"label_rate": -1}, {"inputs": 0}, {"batch_size": 0}, {"label_source": "mine"}]
)
def test_wrong_plans_are_named(changes):
    with pytest.raises(ValueError, match=r"Plan\."):
        Plan(**changes)


@pytest.mark.parametrize("changes", [{"records": None}, {"inputs": "x", "records": []}, {"output": "", "records": []}])
def test_wrong_settings_are_named(changes):
    with pytest.raises(ValueError, match="InspectConfig"):
        InspectConfig(**({"output": "x.html", "records": [Record("0", "x")]} | changes))


def test_a_remote_report_is_refused():
    with pytest.raises(ValueError, match=r"the report is written to a local path; got 'gs://bucket/x\.html'"):
        InspectConfig("gs://bucket/x.html", records=[Record("0", "x")])


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ({"votes": 2, "voters": "3"}, "votes and voters must be integers, 0 ≤ votes ≤ voters; got 2 and '3'"),
        ({"votes": None, "voters": 3}, "votes and voters must be integers"),
        ({"teachers": 3}, "teachers must be a list of objects; got 3"),
        ({"teachers": [{"teacher": 3}]}, "teacher must be a text; got 3"),
        ({"teachers": [{"date": 5}]}, "date must be a text; got 5"),
        ({"teachers": [{"settings": ["x"]}]}, r"settings must be an object; got \['x'\]"),
        ({"teachers": [{"usage": {"prompt_tokens": 1}}]}, "usage must be two integers"),
        ({"prompt": ["x"]}, "prompt must be a text"),
    ],
)
def test_a_foreign_provenance_is_one_line_with_its_place(tmp_path, provenance, expected):
    row = {"input": "q", "label": "a", "llm_label": "a", "rationale": "why"}
    lines = [json.dumps(row), json.dumps({**row, "provenance": provenance})]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(SourceError, match=rf"rows\.jsonl:2: provenance is not that of `distill extract`: {expected}"):
        inspect(InspectConfig(str(tmp_path / "x.html"), inputs=str(tmp_path / "rows.jsonl")))


def test_charts_survive_anything():
    assert "nothing to show" in charts.histogram([])
    for values in ([0], [0, 0, 0], [5], [1, 10**9], [0.0, 1.0], list(range(1000)), [3] * 10 + [5000]):
        for limit in (None, 1, 4, 10**6):
            svg = charts.histogram(values, limit=limit, unit="tokens")
            assert svg.count("<rect") >= 1 and "nan" not in svg and svg.count("<svg") == 1
            counted = sum(
                int(part.split("</title>")[0].rsplit(": ")[-1].replace(",", "")) for part in svg.split("<title>")[1:]
            )
            assert counted == len(values), "every value is in a bar"
    assert "none" in charts.bars({})
    table = charts.bars({f"<{n}>": 10 - n for n in range(10)}, most=3)
    assert "&lt;0&gt;" in table and "7 others" in table and "<0>" not in table


@pytest.mark.parametrize(("module", "answer"), [(cqa, "choice"), (svamp, "equation")])
def test_the_papers_files_can_be_inspected_as_they_are(paper_data, tmp_path, module, answer):
    dataset = module.dataset(str(paper_data))
    result = inspect(InspectConfig(str(tmp_path / "x.html"), dataset=dataset, split="test", vocabulary="bytes"))
    records = list(dataset.records("test"))
    assert result.statistics.rows == len(records)
    right = sum(r.llm_label is not None and dataset.same_answer(r, r.llm_label) for r in records)
    assert result.statistics.agreed == right
    assert f"Labels compared as {answer}" in (tmp_path / "x.html").read_text()
    assert str(result).startswith(str(tmp_path / "x.html"))


def test_rows_that_are_none_are_reported(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"input": "a", "label": "x"}\nnot json\n{"label": "x"}\n')
    result = inspect(InspectConfig(str(tmp_path / "x.html"), inputs=str(path)))
    assert result.statistics.rows == 1 and sum(result.rejected.values()) == 2
    assert "Left out" in (tmp_path / "x.html").read_text()


def test_a_page_replaces_pages_and_neither_its_inputs_nor_files_of_others(tmp_path):
    rows, mine = tmp_path / "rows.jsonl", tmp_path / "mine.html"
    rows.write_text('{"input": "q", "label": "a"}\n')
    mine.write_text("<p>my notes</p>")
    (tmp_path / "rows.failures.jsonl").write_text('{"id": "r", "reason": "cut off", "raw": ""}\n')
    for read in (rows, tmp_path / "rows.failures.jsonl"):
        before = read.read_bytes()
        with pytest.raises(ValueError, match=r"the report .*jsonl is the input"):
            inspect(InspectConfig(str(read), inputs=str(rows), overwrite=True))
        assert read.read_bytes() == before
    with pytest.raises(ValueError, match=r"mine\.html exists, and was not written by `distill inspect`.* --overwrite"):
        inspect(InspectConfig(str(mine), inputs=str(rows)))
    assert mine.read_text() == "<p>my notes</p>"
    inspect(InspectConfig(str(mine), inputs=str(rows), overwrite=True))
    assert inspect(InspectConfig(str(mine), inputs=str(rows))).size > 1000


def test_the_numbers_of_a_page_add_up(tmp_path):
    rows = [{"id": f"r{n}", "input": f"q{n}", "label": "yes", "llm_label": "no" if n else "yes"} for n in range(3)]
    rows[2].pop("llm_label")
    reasons = [
        ("r1", "undecided", "no label"),
        ("r2", "reply", "cut off"),
        ("r2", "undecided", "no label"),
        ("", "row", "x"),
    ]
    failures = [{"id": id, "kind": kind, "reason": reason, "raw": ""} for id, kind, reason in reasons]
    for name, values in (("rows.jsonl", rows), ("rows.failures.jsonl", failures)):
        (tmp_path / name).write_text("".join(json.dumps(value) + "\n" for value in values))
    found = inspect(InspectConfig(str(tmp_path / "p.html"), inputs=str(tmp_path / "rows.jsonl")))
    assert "1 failed reply, 2 undecided replies" in str(found)
    page = (tmp_path / "p.html").read_text()
    assert "Of the 2 rows with both labels, teacher and gold agree on 1 and disagree on 1; 1 of all 3 rows lack" in page
    assert "replies without an answer by reason: 1 failed, 2 undecided" in page


def test_without_gold_labels_the_teachers_are_measured():
    rows = [Record(id=f"r{n}", input="a b", llm_label="one two three", rationales=("a b c d e f",)) for n in range(4)]
    stats = compute(rows, ruler(), Plan())
    lengths = {each.name: each.values for each in stats.lengths}
    assert stats.label_source == "teacher" and lengths["label targets"] == (3, 3, 3, 3)
    assert stats.effective["task_tokens"] == (1.0, 1.0) and stats.effective["all_tokens"] == (2.0, 2.0)
    with_gold = [*rows, Record(id="g", input="a b", label="one")]
    stats = compute(with_gold, ruler(), Plan())
    assert stats.label_source == "gold"
    assert {each.name: each.values for each in stats.lengths}["label targets"] == (1,)


def test_bars_are_as_wide_as_their_shares():
    drawn = charts.bars({"rare": 8, "rarer": 1}, total=1000)
    assert re.findall(r"width:([\d.]+)%", drawn) == ["0.8", "0.1"] and ">0.8%<" in drawn
    assert re.findall(r"width:([\d.]+)%", charts.bars({"a": 3, "b": 1})) == ["75.0", "25.0"]
