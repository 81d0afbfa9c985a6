"""``distill convert`` and ``distill vocabulary`` through the command line."""

import json

import sentencepiece

from distill import exit_codes
from distill.cli import main


def test_convert_is_a_command_of_distill(capsys):
    assert main.main(["convert", "--from=./nowhere", "--to=x"]) == exit_codes.MISTAKE
    said = capsys.readouterr().err
    assert "no checkpoint at ./nowhere" in said and said.count("\n") == 1


def test_vocabulary_is_a_command_of_distill(tmp_path, capsys):
    rows = [{"question": f"{i} apples and {i % 7} pears?", "answer": str(i + i % 7)} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"--input={tmp_path / 'rows.jsonl'}", f"--output={tmp_path / 'sp.model'}", "--size=60"]
    assert main.main(["vocabulary", *given]) == exit_codes.DONE, capsys.readouterr().err
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    assert (model.pad_id(), model.eos_id(), model.vocab_size()) == (0, 1, 60)
    assert main.main(["vocabulary", *given[:2], "--size=5"]) == exit_codes.MISTAKE
