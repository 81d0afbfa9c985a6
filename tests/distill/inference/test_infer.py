"""Answers for JSON lines: order, bad lines, outputs that are continued, and outputs that are refused."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import pytest

from distill import locking
from distill.checkpoints import digests
from distill.inference import answering, answers
from distill.inference import infer as infer_module
from distill.inference import student as students
from distill.inference.answering import Answering
from distill.inference.decoder import Decoder
from distill.inference.infer import infer, summary
from distill.tasks import jsonl
from distill.tasks.records import RowError, SourceError
from tests_support import files_of, read_lines, write_lines

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ROOT = pathlib.Path(__file__).resolve().parents[3]
HOSTILE = ROOT.parent / "shared" / "cases" / "hostile"


def test_one_line_out_for_every_line_in(tmp_path, model_dir):
    rows = [{"id": f"r{i}", "input": "1 and 2?" * (1 + i % 3)} for i in range(19)]
    rows[3:3] = ["garbage", "[1]", {"id": "x", "text": "no input"}, ""]
    write_lines(tmp_path / "in.jsonl", rows)
    report = infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), rationale=True, model_dir=model_dir)
    out = read_lines(tmp_path / "out.jsonl")
    assert (report.answered, report.found, report.failed) == (19, 0, 4)
    assert [row["line"] for row in out] == list(range(1, 24))
    assert [row.get("id") for row in out] == [row.get("id") if isinstance(row, dict) else None for row in rows]
    assert out[3]["error"] == "not valid JSON"
    assert out[4]["error"] == "expected an object; got list"
    assert out[5]["error"] == "field 'input' is absent; the row has id, text"
    assert "empty line" in out[6]["error"]
    assert report.reasons == {
        "not valid JSON": 1, "expected an object": 1, "field 'input' is absent": 1, "an empty line": 1
    }  # fmt: skip
    assert all(row["score"] < 0 and isinstance(row["rationale"], str) for row in out if "label" in row)


def test_answers_of_a_run_that_is_not_complete_have_a_warning(tmp_path, model_dir):
    class Notes(infer_module.Silent):
        def note(self, text):
            notes.append(text)

    notes = []
    (pathlib.Path(model_dir) / "config.gin").touch()
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 2?"}])
    infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), model_dir=model_dir, progress=Notes())
    assert notes[0].startswith(f"WARNING the run in {model_dir} is not complete: its newest saved step is 4;")


def test_a_pipe_is_read_once(tmp_path, model_dir):
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 2?"}] * 3)
    reading, writing = os.pipe()
    os.write(writing, (tmp_path / "in.jsonl").read_bytes())
    os.close(writing)
    try:
        report = infer(f"/dev/fd/{reading}", str(tmp_path / "out.jsonl"), model_dir=model_dir)
    finally:
        os.close(reading)
    assert (report.answered, report.failed) == (3, 0)
    assert [row["line"] for row in read_lines(tmp_path / "out.jsonl")] == [1, 2, 3]


def test_a_pipe_and_a_device_are_written_as_a_stream(tmp_path, model_dir):
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 2?"}] * 3)
    assert infer(tmp_path / "in.jsonl", "/dev/null", model_dir=model_dir).answered == 3
    assert not os.path.exists("/dev/null.run.json")
    reading, writing = os.pipe()
    try:
        infer(tmp_path / "in.jsonl", f"/dev/fd/{writing}", model_dir=model_dir)
        assert [json.loads(line)["line"] for line in os.read(reading, 1 << 16).splitlines()] == [1, 2, 3]
    finally:
        os.close(reading)
        os.close(writing)
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError, match="No space left"):
            infer(tmp_path / "in.jsonl", "/dev/full", model_dir=model_dir)
        assert not os.path.exists("/dev/full.run.json")


def test_a_row_is_answered_the_same_in_any_company(tmp_path, model_dir):
    texts = ["1 and 2?", "3 and 4 and 5 and 6?", "0 and 0?"]
    write_lines(tmp_path / "all.jsonl", [{"input": text} for text in texts])
    infer(str(tmp_path / "all.jsonl"), str(tmp_path / "all.out"), model_dir=model_dir)
    for number, text in enumerate(texts):
        write_lines(tmp_path / f"{number}.jsonl", [{"input": text}])
        infer(str(tmp_path / f"{number}.jsonl"), str(tmp_path / f"{number}.out"), model_dir=model_dir)
        alone, together = read_lines(tmp_path / f"{number}.out")[0], read_lines(tmp_path / "all.out")[number]
        assert alone["label"] == together["label"]
        assert alone["score"] == pytest.approx(together["score"], abs=1e-4)


@pytest.fixture
def kept(monkeypatch):
    """The dtypes of the parameters that each inference keeps."""
    found = []

    def answering(student, vocabulary, params, *args, **options):
        found.append({str(leaf.dtype) for leaf in jax.tree.leaves(params)})
        return Answering(student, vocabulary, params, *args, **options)

    monkeypatch.setattr(infer_module, "Answering", answering)
    return found


def test_a_bfloat16_student_is_cast_once_and_answers_as_with_float32_parameters(tmp_path, model_dir, kept, monkeypatch):
    write_lines(tmp_path / "in.jsonl", [{"input": f"{i} and 2?"} for i in range(9)])
    student = students.read(model_dir)
    student = dataclasses.replace(student, model=dataclasses.replace(student.model, dtype="bfloat16"))
    options = {"model_dir": model_dir, "student": student, "rationale": True}
    infer(tmp_path / "in.jsonl", tmp_path / "cast.jsonl", **options)
    monkeypatch.setattr(infer_module, "in_compute_dtype", lambda params, config: params)
    infer(tmp_path / "in.jsonl", tmp_path / "float32.jsonl", **options)
    assert kept == [{"bfloat16", "float32"}, {"float32"}]  # position biases stay float32
    assert read_lines(tmp_path / "cast.jsonl") == read_lines(tmp_path / "float32.jsonl")


def test_an_input_that_is_missing_leaves_no_folder(tmp_path, model_dir):
    with pytest.raises(FileNotFoundError):
        infer(tmp_path / "none.jsonl", tmp_path / "new" / "out.jsonl", model_dir=model_dir)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("linked", [False, True])
def test_answers_never_replace_their_questions(tmp_path, model_dir, linked):
    questions, output = tmp_path / "in.jsonl", tmp_path / ("out.jsonl" if linked else "in.jsonl")
    write_lines(questions, [{"input": "1 and 1?"}])
    if linked:
        output.symlink_to(questions)
    before = questions.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"is the input .* Name another file"):
            infer(questions, output, model_dir=model_dir, overwrite=overwrite)
    assert questions.read_bytes() == before


def test_a_damaged_checkpoint_leaves_no_output_and_keeps_earlier_answers(tmp_path, model_dir):
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?"}])
    infer(tmp_path / "in.jsonl", tmp_path / "out.jsonl", model_dir=model_dir)
    before = files_of(tmp_path)
    files = [path for path in pathlib.Path(model_dir).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    before[largest.relative_to(tmp_path).as_posix()] = largest.read_bytes()
    with pytest.raises(ValueError, match="checkpoint"):
        infer(tmp_path / "in.jsonl", tmp_path / "out.jsonl", model_dir=model_dir, overwrite=True)
    with pytest.raises(ValueError, match="checkpoint"):
        infer(tmp_path / "in.jsonl", tmp_path / "new" / "folder" / "out.jsonl", model_dir=model_dir)
    assert files_of(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_an_unfinished_output_is_continued(tmp_path, model_dir):
    """A process killed between two chunks: recorded lines are kept, later ones are written again."""
    write_lines(tmp_path / "in.jsonl", [{"input": f"{i} and 1?"} if i != 2 else {"x": 1} for i in range(12)])
    infer(str(tmp_path / "in.jsonl"), str(tmp_path / "whole.jsonl"), chunk=4, model_dir=model_dir)
    whole = (tmp_path / "whole.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    killed = answers.Answers(
        tmp_path / "part.jsonl", json.loads((tmp_path / "whole.jsonl.run.json").read_text())["settings"]
    )
    rows = [[n + 1, None, f"{n} and 1?", None] for n in range(4)]
    rows[2] = [3, None, "", "field 'input' is absent; the row has x"]
    killed.write(lines[:4], rows, ["field 'input' is absent"])
    with (tmp_path / "part.jsonl").open("a") as file:
        file.write(lines[4] + lines[5][:7])
    report = infer(str(tmp_path / "in.jsonl"), str(tmp_path / "part.jsonl"), chunk=4, model_dir=model_dir)
    assert (report.answered, report.found, report.failed) == (8, 4, 0)
    assert report.reasons == {"field 'input' is absent": 1}
    assert (tmp_path / "part.jsonl").read_text() == whole
    again = infer(str(tmp_path / "in.jsonl"), str(tmp_path / "part.jsonl"), chunk=4, model_dir=model_dir)
    assert (again.answered, again.found) == (0, 12)
    write_lines(tmp_path / "in.jsonl", [{"input": f"{i} and 1?"} if i != 2 else {"x": 1} for i in range(14)])
    longer = infer(str(tmp_path / "in.jsonl"), str(tmp_path / "part.jsonl"), chunk=4, model_dir=model_dir)
    assert (longer.answered, longer.found) == (2, 12)
    assert (tmp_path / "part.jsonl").read_text().startswith(whole)


def test_an_output_of_something_else_is_not_touched(tmp_path, model_dir):
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?"}])
    write_lines(tmp_path / "out.jsonl", [{"precious": True}])
    given = (str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    with pytest.raises(ValueError, match=r"out.jsonl exists, and out.jsonl.run.json, .* does not: move the file away"):
        infer(*given, model_dir=model_dir)
    assert read_lines(tmp_path / "out.jsonl") == [{"precious": True}]
    assert infer(*given, overwrite=True, model_dir=model_dir).answered == 1
    (tmp_path / "out.jsonl.run.json").write_text('{"format": "distill-answers", "version": 1, "rows": "x"}')
    with pytest.raises(ValueError, match=r"out.jsonl.run.json is damaged or was not written by `distill infer`"):
        infer(*given, model_dir=model_dir)


def test_another_field_input_or_student_for_the_same_output_is_refused(tmp_path, model_dir):
    given = (str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?", "q": "2 and 2?"}, {"input": "3 and 1?", "q": "4"}])
    infer(*given, model_dir=model_dir)
    before = (tmp_path / "out.jsonl").read_text()
    with pytest.raises(answers.AnotherRun, match=r"2 answers of another run: --input_field was 'input' and is now 'q'"):
        infer(*given, input_field="q", model_dir=model_dir)
    with pytest.raises(answers.AnotherRun, match=r"another run: --rationale was False and is now True\. Name"):
        infer(*given, rationale=True, model_dir=model_dir)
    described = students.read(model_dir)
    longer = dataclasses.replace(described, decode=dataclasses.replace(described.decode, max_decode_len=5))
    with pytest.raises(answers.AnotherRun, match=r"another run: MAX_DECODE_LEN was 4 and is now 5\. Name"):
        infer(*given, student=longer, model_dir=model_dir)
    wider = dataclasses.replace(described, decode=dataclasses.replace(described.decode, batch_size=4))
    assert infer(*given, student=wider, model_dir=model_dir).found == 2  # how many are decoded together is no matter
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?"}, {"input": "other"}])
    with pytest.raises(answers.AnotherRun, match="its first 2 rows are not those of the input now given"):
        infer(*given, model_dir=model_dir)
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?"}])
    with pytest.raises(answers.AnotherRun, match="has 2 lines, and the input 1 row"):
        infer(*given, model_dir=model_dir)
    assert (tmp_path / "out.jsonl").read_text() == before


def test_only_weights_and_settings_of_answers_are_a_student_s_identity(tmp_path, model_dir):
    """Answers are continued in a copy, without files that hold no weights; not with other weights, or another dtype."""
    given = (str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?"}, {"input": "3 and 1?"}])
    infer(*given, model_dir=model_dir)
    before, copy = infer_module.fingerprint(model_dir), tmp_path / "copy"
    shutil.copytree(model_dir, copy)
    (step,) = (copy / "best").iterdir()
    without_weights = [step / "_CHECKPOINT_METADATA", *step.rglob("commit_success.txt"), *step.rglob("_sharding")]
    assert len(without_weights) >= 3
    for path in without_weights:
        path.unlink()
    (step / "metrics" / "metrics").write_text("{}")
    (step / "seen.txt").touch()
    assert infer_module.fingerprint(copy) == before
    assert infer(*given, model_dir=copy).found == 2
    (step / digests.FILE).unlink()  # as of a run with CHECKPOINT_DIGESTS = False
    assert infer_module.fingerprint(copy) == before
    names = [path for path in sorted((step / "params").rglob("*")) if path.is_file()]
    for path in names:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert infer_module.fingerprint(copy) != before, path
        with pytest.raises(answers.AnotherRun, match=f"student was '{before}' and is now '[0-9a-f]{{16}}'"):
            infer(*given, model_dir=copy)
        path.write_bytes(content)
    described = students.read(model_dir)
    half = dataclasses.replace(described, model=dataclasses.replace(described.model, dtype="bfloat16"))
    with pytest.raises(answers.AnotherRun, match="another run: dtype was 'float32' and is now 'bfloat16'"):
        infer(*given, student=half, model_dir=model_dir)
    assert infer_module.fingerprint(tmp_path) == "none"


def test_one_process_at_a_time_writes_an_output(tmp_path, model_dir):
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?"}])
    given = (str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    with locking.held(locking.of_output(tmp_path / "out.jsonl"), "it"):
        with pytest.raises(locking.Locked, match=r"the output .*out.jsonl is in use by .* or name another --output"):
            infer(*given, model_dir=model_dir)
        assert not (tmp_path / "out.jsonl").exists()
    assert infer(*given, model_dir=model_dir).answered == 1
    assert not list(tmp_path.glob("*.lock*"))


def test_lines_that_hold_only_errors_are_made_again(tmp_path, model_dir):
    given = (str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    write_lines(tmp_path / "in.jsonl", [{"q": "1 and 1?", "input": None}, {"q": "2 and 1?", "input": ""}])
    assert infer(*given, model_dir=model_dir).failed == 2
    report = infer(*given, input_field="q", model_dir=model_dir)
    assert (report.answered, report.found, report.failed) == (2, 0, 0)
    assert [set(row) for row in read_lines(tmp_path / "out.jsonl")] == [{"line", "label", "score"}] * 2


def strictly(text):
    """JSON without the extensions that Python alone reads."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_rows_that_cannot_be_used_have_a_line_each(tmp_path, model_dir):
    """Row by row: what another program might write, and what an attacker would."""
    bad = [
        ('{"id": 1, "input": "x", "n": ' + "9" * 5000 + "}", "a number of more than 4,300 digits"),
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"input": "x", "a": ' + "[" * 500 + "]" * 500 + "}", "nested more than 64 deep"),
        ('{"id": "\\ud800", "input": "3 oaks"}', "the row's id cannot be written: it holds half of a surrogate pair"),
        ('{"input": "3 \\ud800 oaks"}', "half of a surrogate pair"),
        (
            '{"input": {"a": "b"}}',
            "field 'input' is not text but an object with 'a'; name one of its fields, as in FIELD.a",
        ),
        ('{"input": Infinity}', "an infinite number"),
    ]
    lines = ['{"id": "ok", "input": "1 and 2?"}']
    for row, _ in bad:
        lines += [row, '{"id": NaN, "input": "1 and 2?"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    report = infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), model_dir=model_dir)
    out = [strictly(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in out] == list(range(1, len(lines) + 1))
    assert (report.answered, report.failed) == (len(bad) + 1, len(bad))
    for row, (_, error) in zip(out[1::2], bad, strict=True):
        assert error in row["error"]
    assert {row["label"] for row in out[::2]} == {out[0]["label"]}  # the rows between are answered
    assert out[2].get("id") is None


@pytest.mark.parametrize("name", ["bigint", "deep", "deepobj", "surrogate_id", "surrogate_input"])
def test_hostile_files(name, tmp_path, model_dir):
    path = HOSTILE / f"infer_{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no hostile rows at {HOSTILE}")
    report = infer(str(path), str(tmp_path / "out.jsonl"), input_field="question", model_dir=model_dir)
    out = [strictly(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (report.answered, report.failed, len(out)) == (2, 1, 3)
    assert ["error" in row for row in out] == [False, True, False]


def test_files_as_windows_and_other_programs_write_them(tmp_path, model_dir):
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"input": "1 and 2?"}\r\n{"input": "3 and 1?"}')
    (tmp_path / "array.json").write_text('[\n {"input": "1 and 2?"},\n 3,\n {"input": "3 and 1?"}\n]\n')
    (tmp_path / "cut.json").write_text('[{"input": "1 and 2?"}, {"input": "3 an')
    assert infer(str(tmp_path / "bom.jsonl"), str(tmp_path / "bom.out"), model_dir=model_dir).answered == 2
    report = infer(str(tmp_path / "array.json"), str(tmp_path / "array.out"), model_dir=model_dir)
    assert (report.answered, report.failed) == (2, 1)
    labels = [row["label"] for row in read_lines(tmp_path / "bom.out")]
    assert [row.get("label") for row in read_lines(tmp_path / "array.out")] == [labels[0], None, labels[1]]
    with pytest.raises(SourceError, match="the file ends too early, within the array's element 2"):
        infer(str(tmp_path / "cut.json"), str(tmp_path / "cut.out"), model_dir=model_dir)
    assert [row["label"] for row in read_lines(tmp_path / "cut.out")] == labels[:1]


def test_inputs_can_be_templates(tmp_path, model_dir):
    write_lines(
        tmp_path / "in.jsonl", [{"a": "1", "b": 2}, {"a": "1"}, {"a": "1", "b": {}}, {"a": "1", "b": ["x", "y"]}]
    )
    student = dataclasses.replace(students.read(model_dir), trained_input_len=20)
    report = infer(
        str(tmp_path / "in.jsonl"),
        str(tmp_path / "out.jsonl"),
        input_field="{a} and {b}?",
        model_dir=model_dir,
        student=student,
    )
    assert (report.fit.beyond, report.fit.cut, report.fit.longest) == (1, 0, 27)
    assert "  1 input has more than 20 tokens, the most that training read of an input" in summary(report, "out.jsonl")
    out = read_lines(tmp_path / "out.jsonl")
    assert "label" in out[0]
    assert out[1]["error"] == "field 'b' is absent; the row has a"
    assert out[2]["error"] == "field 'b' is not text but dict"
    assert "label" in out[3]
    reasons = (
        (None, "null"),
        ("", "empty"),
        (" ", "empty"),
        ([], "a list without a text"),
        (["", None], "a list without"),
    )
    for nothing, why in reasons:
        with pytest.raises(RowError, match=f"field 'b' is {why}"):
            jsonl.text_of({"a": "1", "b": nothing}, "{a} {b}")
    assert jsonl.text_of({"a": "1", "b": ["x", "y"]}, "{a}? {b}") == "1? (a) x\n(b) y"  # as in training


def test_no_student(tmp_path, model_dir):
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?"}])
    given = (str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    with pytest.raises(FileNotFoundError, match=r"no does not exist; expected a directory that `distill train` wrote"):
        infer(*given, model_dir=str(tmp_path / "no"))
    (tmp_path / "no").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no student.json; is it a trained model's directory"):
        infer(*given, model_dir=str(tmp_path / "no"))
    (tmp_path / "no" / "config.gin").touch()
    with pytest.raises(
        FileNotFoundError, match="trained by an earlier version; the same training command adds the file"
    ):
        infer(*given, model_dir=str(tmp_path / "no"))
    with pytest.raises(FileNotFoundError, match="no student was trained there"):
        infer(*given, model_dir=str(tmp_path / "no"), student=students.read(model_dir))


def test_the_outputs_of_all_shards_are_together_the_output_of_the_whole(tmp_path, model_dir):
    """Each row once, in order, with line numbers and ids; bad lines too. A shard continues like any output."""
    rows = [{"id": f"r{i}", "input": f"{i} and 1?"} if i % 5 else "garbage" for i in range(11)]
    write_lines(tmp_path / "in.jsonl", rows)
    given = {"model_dir": model_dir, "chunk": 2}
    infer(tmp_path / "in.jsonl", tmp_path / "whole.jsonl", **given)
    parts = [tmp_path / f"part{i}.jsonl" for i in (1, 2, 3)]
    sizes = []
    for index, part in enumerate(parts, 1):
        report = infer(tmp_path / "in.jsonl", part, shard=(index, 3), **given)
        sizes.append(report.answered + report.failed)
    assert sum(sizes) == 11 and max(sizes) - min(sizes) <= 1
    assert "".join(part.read_text() for part in parts) == (tmp_path / "whole.jsonl").read_text()
    again = infer(tmp_path / "in.jsonl", parts[1], shard=(2, 3), **given)
    assert (again.answered, again.found) == (0, sizes[1])
    refused = r"--shard was '2/3 of 11 rows' and is now "
    with pytest.raises(answers.AnotherRun, match=refused + "'3/3 of 11 rows'"):
        infer(tmp_path / "in.jsonl", parts[1], shard=(3, 3), **given)
    write_lines(tmp_path / "in.jsonl", [*rows, {"input": "1 and 1?"}])  # one more row moves the blocks
    with pytest.raises(answers.AnotherRun, match=refused + "'2/3 of 12 rows'"):
        infer(tmp_path / "in.jsonl", parts[1], shard=(2, 3), **given)
    with pytest.raises(ValueError, match=r"--shard=1/13: .*in\.jsonl has 12 rows; use at most one shard per row"):
        infer(tmp_path / "in.jsonl", tmp_path / "new.jsonl", shard=(1, 13), **given)
    with pytest.raises(ValueError, match="--shard must be I/N with 1 ≤ I ≤ N; got 0/3"):
        infer(tmp_path / "in.jsonl", tmp_path / "new.jsonl", shard=(0, 3), **given)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_weights_are_made_once_and_are_a_setting_of_the_output(tmp_path, model_dir, dtype, kept):
    write_lines(tmp_path / "in.jsonl", [{"input": f"{i} and 2?"} for i in range(9)])
    plain = students.read(model_dir)
    plain = dataclasses.replace(plain, model=dataclasses.replace(plain.model, dtype=dtype))
    quantized = dataclasses.replace(plain, decode=dataclasses.replace(plain.decode, weights="int8"))
    for name, student in (("plain", plain), ("int8", quantized)):
        infer(tmp_path / "in.jsonl", tmp_path / f"{name}.jsonl", model_dir=model_dir, student=student)
    assert kept[1] == {"int8", "float32", dtype}
    before, after = (read_lines(tmp_path / f"{name}.jsonl") for name in ("plain", "int8"))
    assert [row["score"] for row in after] != [row["score"] for row in before]
    for one, other in zip(before, after):
        assert one["score"] == pytest.approx(other["score"], rel=0.1)
    with pytest.raises(answers.AnotherRun, match=r"evaluate\.DecodeConfig\.weights was 'compute' and is now 'int8'"):
        infer(tmp_path / "in.jsonl", tmp_path / "plain.jsonl", model_dir=model_dir, student=quantized)


def test_labels_are_chosen_among_a_rows_choices(tmp_path, model_dir):
    rows = [{"input": f"{n} and 2?", "choices": ["3", "4", "five"][: 2 + n % 2]} for n in range(5)]
    rows += [{"input": "1 and 2?"}, {"input": "1 and 2?", "choices": ["3", "3"]}]
    write_lines(tmp_path / "in.jsonl", rows)
    given = {"model_dir": model_dir, "choices": "choices"}
    report = infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), rationale=True, **given)
    out = read_lines(tmp_path / "out.jsonl")
    assert (report.answered, report.failed) == (5, 2)
    for row, answer in zip(rows[:5], out):
        assert answer["label"] == row["choices"][max(enumerate(answer["probabilities"]), key=lambda one: one[1])[0]]
        assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert len(answer["probabilities"]) == len(row["choices"]) and answer["rationale"]
    assert out[5]["error"] == "field 'choices' is absent; the row has input"
    assert out[6]["error"] == "there must be two different choices or more; got ['3', '3']"
    again = infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), rationale=True, **given)
    assert (again.answered, again.found) == (0, 7)
    assert again.first == report.first and len(report.first) == 2
    with pytest.raises(answers.AnotherRun, match=r"--choices was 'choices' and is now \['3', '4'\]"):
        infer(
            str(tmp_path / "in.jsonl"),
            str(tmp_path / "out.jsonl"),
            rationale=True,
            model_dir=model_dir,
            choices=["3", "4"],
        )


def test_a_choice_that_does_not_fit_after_the_targets_prefix_is_an_error_of_its_row(tmp_path, model_dir):
    student = dataclasses.replace(students.read(model_dir), form="shared_label")
    write_lines(tmp_path / "in.jsonl", [{"input": "1?", "choices": ["3", last]} for last in ("x" * 511, "4")])
    given = {"model_dir": model_dir, "student": student, "choices": "choices"}
    report = infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), **given)
    assert (report.answered, report.failed) == (1, 1)
    assert list(report.reasons) == [f"a choice has more than {512 - len(student.label_prefix)} tokens"]


def test_a_student_that_was_trained_to_choose_reads_the_choices_of_the_training(tmp_path, model_dir):
    described = students.read(model_dir)
    decode = dataclasses.replace(described.decode, answers="choose")
    fields = students.RowFormat({"choices": "options"})
    student = dataclasses.replace(described, decode=decode, rows=fields)
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 2?", "options": ["3", "4"]}])
    infer(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), model_dir=model_dir, student=student)
    (chosen,) = read_lines(tmp_path / "out.jsonl")
    assert chosen["label"] in ("3", "4") and len(chosen["probabilities"]) == 2
    write_lines(tmp_path / "other.jsonl", [{"input": "1 and 2?"}])
    with pytest.raises(ValueError, match=r"none of 1 row has the field 'options', where the choices were expected"):
        infer(str(tmp_path / "other.jsonl"), str(tmp_path / "o.jsonl"), model_dir=model_dir, student=student)
    same = dataclasses.replace(student, decode=dataclasses.replace(decode, choices=("3", "4", "5")))
    infer(str(tmp_path / "other.jsonl"), str(tmp_path / "o.jsonl"), model_dir=model_dir, student=same)
    assert len(read_lines(tmp_path / "o.jsonl")[0]["probabilities"]) == 3
    int8 = dataclasses.replace(described, decode=dataclasses.replace(described.decode, weights="int8"))
    with pytest.raises(ValueError, match=r"choices need float weights, and DecodeConfig\.weights is 'int8'"):
        infer(
            str(tmp_path / "in.jsonl"), str(tmp_path / "o.jsonl"), model_dir=model_dir, student=int8, choices="options"
        )
    single = dataclasses.replace(student, form="single")
    with pytest.raises(ValueError, match="so its answer cannot be chosen"):
        infer(str(tmp_path / "in.jsonl"), str(tmp_path / "o.jsonl"), model_dir=model_dir, student=single)


def test_a_text_without_an_answer_is_an_error_of_its_row_and_a_cut_answer_is_counted(tmp_path, model_dir):
    write_lines(tmp_path / "in.jsonl", [{"id": n, "input": f"{n} and 2?"} for n in range(3)])
    student = dataclasses.replace(students.read(model_dir), form="single")
    given = {"model_dir": model_dir, "rationale": True}
    report = infer(tmp_path / "in.jsonl", tmp_path / "single.jsonl", student=student, **given)
    lines = read_lines(tmp_path / "single.jsonl")
    assert (report.answered, report.failed, report.cut) == (0, 3, 0)
    assert all(line.keys() == {"line", "id", "error"} for line in lines)
    assert all(line["error"].startswith("the student's text ") and "; got '" in line["error"] for line in lines)
    assert sum(report.reasons.values()) == 3 and all(";" not in reason for reason in report.reasons)
    assert "3 rows: 0 answered, 3 not" in summary(report, "single.jsonl")
    report = infer(tmp_path / "in.jsonl", tmp_path / "out.jsonl", **given)
    assert (report.answered, report.failed) == (3, 0) and report.cut > 0
    remarks = answering.remarks(report.cut, report.empty, "--gin.MAX_DECODE_LEN=N")
    assert summary(report, "out.jsonl").splitlines()[1:] == [f"  {text}" for text in remarks]


def test_empty_answers_are_counted(tmp_path, model_dir, monkeypatch):
    rows = [{"id": n, "input": f"{n} and 2?"} for n in range(3)]
    write_lines(tmp_path / "in.jsonl", rows)
    real = Decoder.__call__

    def first_is_empty(self, *given):
        found = real(self, *given)
        return [dataclasses.replace(found[0], tokens=found[0].tokens[:0], cut=False), *found[1:]]

    monkeypatch.setattr(Decoder, "__call__", first_is_empty)
    report = infer(tmp_path / "in.jsonl", tmp_path / "out.jsonl", model_dir=model_dir)
    labels = [line["label"] for line in read_lines(tmp_path / "out.jsonl")]
    assert labels[0] == "" and report.empty == labels.count("") and report.answered == 3
    assert answering.remarks(0, report.empty, "")[0] in summary(report, "out.jsonl")
