"""``distill infer``: what it prints and writes, its exit code, and the settings that it takes."""

import dataclasses
import json
import re

import pytest

from distill import exit_codes
from distill.cli import main, serving
from distill.inference.student import Student
from distill.model.config import T5Config
from tests_support import read_lines, write_lines

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STUDENT = Student(T5Config(384, 16, 2, 8, 32, 1, 1), "bytes", 125)


def test_answers_on_standard_output(tmp_path, model_dir, capfd):
    """JSON lines alone on standard output, all else on standard error; no file is written."""
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 2?"}, {"x": 1}, {"input": "übrig?"}])
    words = [f"--model_dir={model_dir}", f"--input={tmp_path / 'in.jsonl'}"]
    before = sorted(tmp_path.iterdir())
    assert main.main(["infer", *words, "--output=-"]) == 0
    captured = capfd.readouterr()
    printed = [json.loads(line) for line in captured.out.splitlines()]
    assert "3 rows: 2 answered, 1 not; written to standard output" in captured.err
    assert sorted(tmp_path.iterdir()) == before
    assert main.main(["infer", *words, f"--output={tmp_path / 'out.jsonl'}"]) == 0
    assert printed == read_lines(tmp_path / "out.jsonl")


def test_the_command_reports_and_its_exit_code_tells(tmp_path, model_dir, capsys):
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?"}, {"q": "2"}])
    command = ["infer", f"--model_dir={model_dir}", f"--input={tmp_path / 'in.jsonl'}"]
    assert main.main([*command, f"--output={tmp_path / 'out.jsonl'}"]) == 0
    told = capsys.readouterr().err
    assert f"2 rows: 1 answered, 1 not; written to {tmp_path / 'out.jsonl'}" in told
    assert f"  1 × field 'input' is absent (first: {tmp_path / 'in.jsonl'}:2)" in told
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write('{"input": "2 and 2?"}\n{"q": "3"}\n')
    for _ in range(2):  # continued, and once more with nothing left to answer
        assert main.main([*command, f"--output={tmp_path / 'out.jsonl'}"]) == 0
        told = capsys.readouterr().err
        assert f"  2 × field 'input' is absent (first: {tmp_path / 'in.jsonl'}:2)" in told
    (tmp_path / "in.jsonl").write_text('{"input": "1 and 1?"}\n{"q": "2"}\n')
    assert main.main([*command, f"--output={tmp_path / 'no.jsonl'}", "--input_field=question"]) == 2
    told = capsys.readouterr().err
    assert "none of 2 rows has the field 'question', where the input was expected (the rows have: input, q);" in told
    assert not list(tmp_path.glob("no.jsonl*"))
    assert main.main([*command, f"--output={tmp_path / 'no.jsonl'}", "--input_field=q"]) == 0
    (tmp_path / "in.jsonl").write_text("")
    assert main.main([*command, f"--output={tmp_path / 'empty.jsonl'}"]) == 2
    assert "holds no rows; nothing was answered" in capsys.readouterr().err
    assert not list(tmp_path.glob("empty.jsonl*"))
    assert main.main([*command, f"--output={tmp_path / 'b.jsonl'}", "--gin.MAX_DECODE_LEM=3"]) == 2
    assert "--gin.MAX_DECODE_LEM does not apply here; did you mean 'MAX_DECODE_LEN'?" in capsys.readouterr().err
    assert main.main([*command, f"--output={tmp_path / 'b.jsonl'}", "--gin.evaluate.DecodeConfig.method=beem"]) == 2
    assert "did you mean 'beam'?" in capsys.readouterr().err
    assert main.main([*command, f"--output={tmp_path / 'b.jsonl'}", "--gin.evaluate.DecodeConfig.weights=int9"]) == 2
    assert "DecodeConfig.weights must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        (
            '{"input": null}\n\n{"input": ""}\n',
            "1 × field 'input' is null (first: {0}:1); 1 × an empty line (first: {0}:2); 1 × field 'input' is empty "
            "(first: {0}:3). The",
        ),
        ("\n\n", "2 × an empty line (first: {0}:1). "),
    ],
)
def test_rows_without_an_answer_are_explained_by_their_reasons(tmp_path, model_dir, capsys, text, reasons):
    (tmp_path / "in.jsonl").write_text(text)
    given = ["infer", f"--model_dir={model_dir}", f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out'}"]
    assert main.main(given) == exit_codes.MISTAKE
    told = capsys.readouterr().err
    assert reasons.format(tmp_path / "in.jsonl") in told and ("--input_field names another" in told) == (
        "input" in text
    )


def test_a_block_of_bad_rows_is_no_error_while_other_rows_of_the_input_can_be_read(tmp_path, model_dir, capsys):
    command = ["infer", f"--model_dir={model_dir}", f"--input={tmp_path / 'in.jsonl'}"]
    shard = [*command, f"--output={tmp_path / 'out.jsonl'}", "--overwrite", "--shard=2/2"]
    for others, code in (('{"input": "1 and 1?"}\n[1]\n', exit_codes.DONE), ("[1]\n\n", exit_codes.MISTAKE)):
        (tmp_path / "in.jsonl").write_text(f"{others}no\n[2]\n")
        assert main.main([*command, f"--output={tmp_path / 'whole.jsonl'}", "--overwrite"]) == code
        capsys.readouterr()
        assert main.main(shard) == code
        told = capsys.readouterr().err
        assert ("2 rows: 0 answered, 2 not; written to" in told) == (code == exit_codes.DONE)
        assert ("WARNING no row of this block could be read; rows of other blocks can" in told) == (code == 0)
        assert ("none of 2 rows of block 2/2 of" in told) == (code == exit_codes.MISTAKE)
        assert [line["line"] for line in read_lines(tmp_path / "out.jsonl")] == [3, 4]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/2/3", "-1/2", "a/b", ""])
def test_a_shard_that_is_none_of_all_is_refused_before_anything_is_read(tmp_path, text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main.main(["infer", "--model_dir=none", "--input=none", f"--output={tmp_path / 'out'}", f"--shard={text}"])
    assert f"must be I/N with 1 ≤ I ≤ N, such as 2/4; got {text!r}" in capsys.readouterr().err


def test_two_shards_by_the_command_line(tmp_path, model_dir):
    write_lines(tmp_path / "in.jsonl", [{"input": f"{number} and 1?"} for number in range(3)])
    command = ["infer", "--quiet", f"--model_dir={model_dir}", f"--input={tmp_path / 'in.jsonl'}"]
    for index in (1, 2):
        assert main.main([*command, f"--output={tmp_path / str(index)}", f"--shard={index}/2"]) == 0
    lines = [row["line"] for index in (1, 2) for row in read_lines(tmp_path / str(index))]
    assert lines == [1, 2, 3]


@pytest.mark.parametrize("text", ["0", "-3", "many", ""])
def test_a_length_of_rationales_that_is_not_positive_is_refused_by_name(tmp_path, text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main.main(["infer", "--model_dir=none", "--input=none", "--output=out", f"--max_rationale_len={text}"])
    assert f"--max_rationale_len: must be a whole number ≥ 1; got {text!r}" in capsys.readouterr().err


def test_the_length_of_rationales_by_the_command_line(tmp_path, model_dir, capsys, monkeypatch):
    from distill.inference import infer

    given, real = [], infer.infer
    monkeypatch.setattr(infer, "infer", lambda *words, **named: given.append(named) or real(*words, **named))
    write_lines(tmp_path / "in.jsonl", [{"input": "1 and 1?"}])
    command = ["infer", f"--model_dir={model_dir}", f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out'}"]
    assert main.main([*command, "--max_rationale_len=3"]) == exit_codes.MISTAKE
    assert "--max_rationale_len=3 changes nothing without --rationale" in capsys.readouterr().err
    single = [*command, "--rationale", "--max_rationale_len=3", "--gin.EVAL_FORM=single"]
    assert main.main(single) == exit_codes.MISTAKE
    assert "--max_rationale_len=3 changes nothing for this student" in capsys.readouterr().err
    assert main.main([*command, "--rationale", "--max_rationale_len=3"]) == 0
    assert [one["rationale_decode"].max_decode_len for one in given] == [3]
    assert main.main([*command, "--rationale", "--max_rationale_len=4"]) == exit_codes.MISTAKE
    assert "--max_rationale_len was 3 and is now 4" in capsys.readouterr().err


def test_settings_of_the_command_line_replace_the_students():
    given = [
        "MAX_DECODE_LEN = 9",
        "EVAL_FORM = single",
        "DTYPE = 'bfloat16'",
        "evaluate.DecodeConfig.method = beam",
        "partitioning.MeshConfig.model = 2",
    ]
    changed = serving.with_bindings(STUDENT, given)
    assert (changed.decode.max_decode_len, changed.decode.method, changed.form) == (9, "beam", "single")
    assert (changed.model.dtype, changed.mesh.model) == ("bfloat16", 2)
    assert dataclasses.replace(
        changed, decode=STUDENT.decode, form="label", mesh=STUDENT.mesh, model=STUDENT.model
    ) == (STUDENT)
    assert serving.with_bindings(STUDENT, []) is STUDENT


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("MAX_DECODE_LEM = 3", r"--gin\.MAX_DECODE_LEM does not apply here; did you mean 'MAX_DECODE_LEN'\?"),
        ("TRAIN_STEPS = 3", r"--gin\.TRAIN_STEPS does not apply here .*settings: MAX_DECODE_LEN, "),
        ("MAX_DECODE_LEN = 3 * 3", r"--gin\.MAX_DECODE_LEN must be a number, a quoted text or a word; got '3 \* 3'"),
        ("DTYPE = __import__('os').getcwd()", r"--gin\.DTYPE must be a number, a quoted text or a word"),
        ("MAX_DECODE_LEN = 0", r"^--gin\.MAX_DECODE_LEN=0: DecodeConfig\.max_decode_len must be ≥ 1; got 0$"),
        (
            "MAX_INPUT_LEN = ten",
            r"^--gin\.MAX_INPUT_LEN: expected int; got 'ten' \(str\); give a whole number, as in --gin\.MAX_INPUT_LEN=100$",
        ),
        (
            "EVAL_FORM = 5",
            r"""^--gin\.EVAL_FORM: expected str; got 5 \(int\); a text needs quotes: --gin\.EVAL_FORM='"5"'$""",
        ),
        (
            "evaluate.DecodeConfig.choices = ['a', 'b']",
            r"^--gin\.evaluate\.DecodeConfig\.choices=\['a', 'b'\]: .* set it to",
        ),
        (
            "evaluate.DecodeConfig.method = beem",
            r"^--gin\.evaluate\.DecodeConfig\.method=beem: .*did you mean 'beam'\?$",
        ),
    ],
)
def test_settings_that_are_refused(binding, message):
    with pytest.raises(ValueError, match=message):
        serving.with_bindings(STUDENT, [binding])


@pytest.mark.parametrize("command", [["infer", "--input=a", "--output=b"], ["export", "--output=b"]])
def test_a_student_must_be_named(command, capsys):
    assert main.main(command) == 2
    assert f"{command[0]} needs --model_dir, the directory of a trained student" in capsys.readouterr().err


def test_an_export_says_what_it_does_before_it_reads_the_student(tmp_path, model_dir, capsys):
    assert main.main(["export", f"--model_dir={model_dir}", f"--output={tmp_path / 'out'}", "--format=t5x"]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0].startswith(f"{model_dir}: exporting a student of ") and lines[0].endswith(f"to {tmp_path / 'out'}")
    found = re.fullmatch(r"([\d,]+) of ([\d,]+) parameters; finishing the files", lines[-1])
    assert found and found[1] == found[2]
    assert out == f"{tmp_path / 'out'}\n"


def test_progress_of_an_export_is_a_line_every_few_seconds(monkeypatch, capsys):
    now = [50.0]
    monkeypatch.setattr(serving.time, "monotonic", lambda: now[0])
    progress, quiet = serving.ExportProgress(), serving.ExportProgress(quiet=True)
    for at, done in ((51.0, 1000), (54.0, 2000), (55.0, 3000), (56.0, 4000)):
        now[0] = at
        progress(done, 4000)
        quiet(done, 4000)
    assert capsys.readouterr().err.splitlines() == [
        "2,000 of 4,000 parameters",
        "4,000 of 4,000 parameters; finishing the files",
    ]


def test_progress_in_a_pipe_is_a_line_every_ten_seconds(tmp_path, monkeypatch, capsys):
    now = [50.0]
    monkeypatch.setattr(serving.time, "monotonic", lambda: now[0])
    with serving.Progress(tmp_path / "in.jsonl") as progress:
        for at, done, failed in ((60.0, 1, 0), (65.0, 40, 1), (70.0, 2001, 1)):
            now[0] = at
            progress.rows(done, failed)
    assert capsys.readouterr().err.splitlines() == [
        "1 row done, 0 without an answer",
        "2,001 rows done, 1 without an answer, 200.0 rows/s",
    ]
    serving.Progress(tmp_path / "in.jsonl", quiet=True).note("a line")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "rows"),
    [(b"", 0), (b"{}\n{}\n", 2), (b"{}\n{}", 2), (b"\xef\xbb\xbf[1]", None), (b"\x1f\x8b\x08\x00", None), (None, None)],
)
def test_rows_are_counted_for_the_bar(tmp_path, content, rows):
    if content is not None:
        (tmp_path / "in.jsonl").write_bytes(content)
    assert serving.Progress(tmp_path / "in.jsonl")._count() == rows
