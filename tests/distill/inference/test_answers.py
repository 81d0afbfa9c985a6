"""The file of answers and its record: a run continues where it was killed, and no other run continues it."""

import hashlib
import json
import math

import pytest

from distill.inference import answers
from distill.inference.answers import AnotherRun, Answers

SETTINGS = {"model": "m", "beams": 4}


def filled(path, rows=2):
    out = Answers(path, SETTINGS)
    out.write([answers.line({"n": n}) for n in range(rows)], [f"q{n}" for n in range(rows)], [])
    return out


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_is_no_output(tmp_path, overwrite):
    with pytest.raises(ValueError, match=r"is a folder; expected a file, such as .*answers\.jsonl$"):
        Answers(tmp_path, SETTINGS, overwrite=overwrite)
    assert list(tmp_path.iterdir()) == []


def test_lines_and_their_record(tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    out = Answers(path, SETTINGS)
    out.write([answers.line({"answer": "ä"}), answers.line({"error": "too long"})], ["a", "b"], ["too long"])
    assert path.read_text() == '{"answer": "ä"}\n{"error": "too long"}\n'
    record = json.loads((tmp_path / "new" / "answers.jsonl.run.json").read_text())
    assert record == {
        "format": "distill-answers", "version": 1, "settings": SETTINGS, "rows": 2, "bytes": 39,
        "digest": answers.chained(hashlib.sha256(b"").hexdigest(), ["a", "b"]), "answered": 1, "reasons": {"too long": 1},
    }  # fmt: skip
    assert out.record.failed == 1


def test_what_a_kill_left_after_the_last_record_is_cut_off(tmp_path):
    path = tmp_path / "answers.jsonl"
    filled(path)
    complete = path.read_bytes()
    path.write_bytes(complete + b'{"n": 2}\n{"n"')
    again = Answers(path, SETTINGS)
    assert path.read_bytes() != complete  # nothing is written yet
    again.begin()
    assert path.read_bytes() == complete
    assert (again.found.rows, again.found.answered) == (2, 2)
    again.check_inputs(answers.chained(hashlib.sha256(b"").hexdigest(), ["q0", "q1"]))
    again.write([answers.line({"n": 2})], ["q2"], [])
    assert path.read_text() == '{"n": 0}\n{"n": 1}\n{"n": 2}\n'
    assert again.found.rows == 2 and again.record.rows == 3


def test_every_other_setting_is_listed(tmp_path):
    filled(tmp_path / "a.jsonl")
    with pytest.raises(AnotherRun) as caught:
        Answers(tmp_path / "a.jsonl", {"model": "n", "seed": 1})
    text = str(caught.value)
    for part in (
        "2 answers",
        "model was 'm' and is now 'n'",
        "beams was 4 and is now not given",
        "seed was not given",
        "--overwrite",
    ):
        assert part in text


def test_overwrite_begins_again(tmp_path):
    filled(tmp_path / "a.jsonl")
    out = Answers(tmp_path / "a.jsonl", {"model": "n"}, overwrite=True)
    out.begin()
    assert (tmp_path / "a.jsonl").read_bytes() == b""
    assert (out.record.rows, out.record.settings) == (0, {"model": "n"})


def test_a_file_of_errors_alone_is_made_again_with_any_settings(tmp_path):
    path = tmp_path / "a.jsonl"
    Answers(path, SETTINGS).write([answers.line({"error": "no"})], ["q"], ["no"])
    again = Answers(path, {"model": "n"})
    assert again.record.rows == 0
    again.begin()
    assert path.read_bytes() == b""


def test_another_input_is_refused(tmp_path):
    out = filled(tmp_path / "a.jsonl")
    again = Answers(tmp_path / "a.jsonl", SETTINGS)
    with pytest.raises(AnotherRun, match="first 2 rows"):
        again.check_inputs(answers.chained(hashlib.sha256(b"").hexdigest(), ["q0", "other"]))
    again.check_inputs(out.record.digest)
    assert "2 lines, and the input 1 row" in str(again.too_few_inputs(1))


def test_a_file_without_its_record_and_a_short_one_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    filled(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"17 of 18 bytes"):
        Answers(path, SETTINGS)
    (tmp_path / "a.jsonl.run.json").unlink()
    with pytest.raises(ValueError, match=r"a\.jsonl\.run\.json.*--overwrite"):
        Answers(path, SETTINGS)
    path.write_bytes(b"")
    assert Answers(path, SETTINGS).record.rows == 0


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"rows": -1}, {"rows": 1.5}, {"answered": True}, {"settings": []},
     {"digest": 3}, {"reasons": 3}, {"unknown": 1},
     # Found by fuzzing: OverflowError, and UnicodeEncodeError once a line was added.
     {"rows": 10**400}, {"reasons": {"a": 2**63}}, {"digest": "\ud800" * 64}, {"digest": "0" * 63}],
)  # fmt: skip
def test_a_damaged_record_is_refused(tmp_path, changes):
    filled(tmp_path / "a.jsonl")
    path = tmp_path / "a.jsonl.run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=r"a\.jsonl\.run\.json is damaged"):
        Answers(tmp_path / "a.jsonl", SETTINGS)


@pytest.mark.parametrize("content", ["", '{"format": "distill-answers', '["distill-answers"]' + "[" * 10**5])
def test_a_record_that_is_no_json_is_refused(tmp_path, content):
    filled(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl.run.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.jsonl\.run\.json is damaged"):
        Answers(tmp_path / "a.jsonl", SETTINGS)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("output", [False, True])
def test_a_file_of_another_program_in_the_place_of_the_record_is_kept(tmp_path, output, overwrite):
    if output:
        filled(tmp_path / "a.jsonl")
    record = tmp_path / "a.jsonl.run.json"
    record.write_text('{"format": "other"}')
    with pytest.raises(
        ValueError, match=r"the record of the answers \S+ exists, and was not written by `distill infer`"
    ):
        Answers(tmp_path / "a.jsonl", SETTINGS, overwrite=overwrite)
    assert record.read_text() == '{"format": "other"}'


def test_the_digest_is_chained_row_by_row():
    start = hashlib.sha256(b"").hexdigest()
    one = hashlib.sha256((start + '"a"').encode()).hexdigest()
    assert answers.chained(start, ["a"]) == one
    assert answers.chained(one, ["b"]) == answers.chained(start, ["a", "b"])
    assert answers.chained(start, ["ab"]) != answers.chained(start, ["a", "b"])
    assert len(answers.chained(start, ["\ud800"])) == 64


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud800"])
def test_lines_hold_only_what_any_reader_takes(value):
    with pytest.raises(ValueError):
        answers.line({"value": value})


@pytest.mark.parametrize("reasons", [None, [], "few", 3])
def test_a_record_whose_reasons_are_no_counts_is_refused(tmp_path, reasons):
    filled(tmp_path / "answers.jsonl")
    record = tmp_path / "answers.jsonl.run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"reasons": reasons}))
    with pytest.raises(ValueError, match=r"is damaged .*its reasons are no object but .*--overwrite"):
        Answers(tmp_path / "answers.jsonl", SETTINGS)


def test_differences_name_the_flag_and_each_cause_once():
    decode = {"max_decode_len": 4, "method": "greedy"}
    before = {"rationale": False, "form": "label", **{f"decode.{name}": value for name, value in decode.items()}}
    why = {f"rationale_decode.{name}": value for name, value in decode.items()} | {"rationale_prefix": "[r] "}
    assert answers.differences(before, before | {"rationale": True} | why) == [
        "--rationale was False and is now True"
    ]  # and nothing about how rationales are decoded
    with_why = before | {"rationale": True} | why
    sampled = with_why | {"decode.method": "sample", "rationale_decode.method": "sample", "decode.max_decode_len": 5}
    assert answers.differences(with_why, sampled) == [
        "MAX_DECODE_LEN was 4 and is now 5",
        "evaluate.DecodeConfig.method was 'greedy' and is now 'sample'",
    ]
    assert answers.differences(before, before | {"form": "single"}) == ["EVAL_FORM was 'label' and is now 'single'"]
    longer = {"rationale_decode.max_decode_len": 9, "decode.max_decode_len": 5}
    assert answers.differences(with_why, with_why | longer) == [
        "MAX_DECODE_LEN was 4 and is now 5",
        "--max_rationale_len was 4 and is now 9",
    ]
    assert answers.differences(before, dict(before)) == []
