"""``distill vocabulary``: the texts that it reads, the file that it writes, and its errors."""

import json
import re
import signal

import pytest
import sentencepiece

from distill import exit_codes
from distill.cli import main
from distill.tasks import jsonl
from distill.tasks.records import SourceError
from distill.tools import vocabulary_command

LINES = ["The cat sat on the mat.", "A dog sat on 12 logs.", "There are 345 birds in the tree."] * 5


def run(arguments):
    return main.main(["vocabulary", *arguments])


def _load(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def test_unknown_characters_are_counted_and_named(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("ab ba\n" * 300 + "7 7 ü\n")
    command = [f"--input={text}", "--size=40", f"--output={tmp_path / 'v.model'}"]
    assert run([*command, "--character_coverage=0.99"]) == 0
    error = capsys.readouterr().err
    assert "training a vocabulary on 301 texts" in error
    assert "WARNING the vocabulary has no piece for 3 characters of the text: '7' (2), 'ü' (1). A student can" in error
    model = _load((tmp_path / "v.model").read_bytes())
    assert model.unk_id() not in model.encode("[label] [rationale] So the answer is")  # the prefixes of all runs
    assert run([*command, "--overwrite"]) == 0
    printed = capsys.readouterr()
    assert "WARNING" not in printed.err
    assert ", fewer than --size=40: the text supports no more" in printed.out


def test_the_text_is_not_replaced_by_its_vocabulary(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("a b c\n")
    command = [f"--input={text}", "--size=30", f"--output={text}", "--overwrite"]
    assert run(command) == exit_codes.MISTAKE
    assert f"--output {text} is the input" in capsys.readouterr().err
    assert text.read_text() == "a b c\n"


def test_an_output_is_not_replaced_by_another_vocabulary(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    output = tmp_path / "v.model"
    command = [f"--input={tmp_path / 'text.txt'}", f"--output={output}"]
    assert run([*command, "--size=40"]) == 0
    before = output.read_bytes()
    assert run([*command, "--size=40"]) == 0
    assert run([*command, "--size=50"]) == exit_codes.MISTAKE
    assert (
        f"--output={output} exists, and is another file than the vocabulary that was trained" in capsys.readouterr().err
    )
    assert output.read_bytes() == before
    assert run([*command, "--size=50", "--overwrite"]) == 0
    assert output.read_bytes() != before


def test_flags_are_checked_before_texts_are_read(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a b")
    assert run([f"--input={tmp_path / 'text.txt'}", "--size=-4"]) == exit_codes.MISTAKE
    printed = capsys.readouterr().err
    assert "size must be at least 4" in printed and "training a vocabulary" not in printed


def test_record_texts(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"input": "one</s>two", "label": "yes", "llm_label": "no", "rationales": ["a", "b"]}))
    dataset = jsonl.dataset({"train": path}, separator="</s>", validation_fraction=0.0)
    assert list(vocabulary_command.record_texts(dataset)) == ["one", "two", "yes", "no", "a", "b"]


def test_the_command_reads_text_and_json(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(LINES), encoding="utf-8-sig")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"q": line, "tags": ["zebra"], "n": 1}) + "\n" for line in LINES))
    output = tmp_path / "new" / "v.model"
    status = run(
        [
            f"--input={text}",
            f"--input={rows}",
            "--fields=q,tags",
            "--size=80",
            f"--output={output}",
            "--model_type=word",
        ]
    )
    assert status == 0
    assert "(word)" in capsys.readouterr().out
    pieces = _load(output.read_bytes()).encode("zebra", out_type=str)
    assert pieces == ["▁zebra"]
    assert run([f"--input={text}", "--size=300", f"--output={output}", "--special=gemma", "--overwrite"]) == 0
    assert "pieces (bpe)" in capsys.readouterr().out
    assert _load(output.read_bytes()).bos_id() == 2


def test_the_command_explains_its_errors(tmp_path, capsys):
    assert run([f"--input={tmp_path / 'none.txt'}", "--size=50"]) == exit_codes.MISTAKE
    assert "none.txt is missing (text for the vocabulary)" in capsys.readouterr().err
    assert run(["--set=swamp", f"--data_dir={tmp_path}", "--size=50"]) == exit_codes.MISTAKE
    assert (
        "--set must be one of ('cqa', 'svamp', 'esnli', 'anli1', 'asdiv'); got 'swamp'; did you mean 'svamp'?"
        in capsys.readouterr().err
    )
    assert run(["--size=50"]) == exit_codes.MISTAKE
    assert "from --input files or from --set with --data_dir; give one of the two" in capsys.readouterr().err
    (tmp_path / "blank.txt").write_text(" \n\n")
    assert run([f"--input={tmp_path / 'blank.txt'}", "--size=50"]) == exit_codes.MISTAKE
    assert "blank.txt holds no text; expected lines of text" in capsys.readouterr().err
    assert run([f"--input={tmp_path / 'blank.txt'}", "--size=50", f"--output={tmp_path}"]) == exit_codes.MISTAKE
    assert "is a folder; give a file, such as" in capsys.readouterr().err
    assert run(["--set=svamp", "--size=50"]) == exit_codes.MISTAKE
    assert "--set needs --data_dir" in capsys.readouterr().err


def test_bad_files_are_errors_and_bad_rows_are_counted(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(SourceError, match=r"a\.txt:2: not UTF-8"):
        list(vocabulary_command.text_lines(path))
    rows = tmp_path / "b.jsonl"
    rows.write_text('{"q": "x"}\n{"q": \n3\n')
    assert list(vocabulary_command.json_texts(rows)) == ["x"]
    assert re.search(r"WARNING 2 rows left out, first: .*b\.jsonl:2: not valid JSON", capsys.readouterr().err)
    rows.write_text('{"q": \n')
    with pytest.raises(SourceError, match=r"b\.jsonl:1: not valid JSON"):
        list(vocabulary_command.json_texts(rows))
    rows.write_text('{"question": "x"}\n')
    with pytest.raises(SourceError, match="no row has the field 'why'"):
        list(vocabulary_command.json_texts(rows, ["question", "why"]))
    with pytest.raises(SourceError, match="no row has the field 'quesion'; did you mean 'question'"):
        list(vocabulary_command.json_texts(rows, ["quesion"]))


def test_signals_end_the_training_and_are_handled_as_before_after_it():
    before = signal.getsignal(signal.SIGTERM)
    with vocabulary_command._ended_by_signals():
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before
