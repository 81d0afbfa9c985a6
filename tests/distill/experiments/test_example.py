"""The rows of ``distill example``: literal contents, their answers, and what is never overwritten."""

import json
import shlex
from pathlib import Path

import pytest
import sentencepiece

from distill.api import configuration
from distill.cli import main
from distill.experiments import example
from distill.tasks import demo_world
from tests_support import read_lines


def test_the_files(tmp_path, capsys):
    out = tmp_path / "rows"
    assert main.main(["example", f"--output={out}", "--train_rows=50"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"wrote {out}/train.jsonl: 50 rows"
    assert printed[1:4] == [
        f"wrote {out}/validation.jsonl: 200 rows", f"wrote {out}/test.jsonl: 500 rows", f"wrote {out}/new.jsonl: 3 rows",
    ]  # fmt: skip
    assert printed[4].startswith(f"wrote {out}/vocabulary.model: ")
    assert printed[5].startswith("next: distill train --gin_file=gin/recipes/quickstart.gin ")
    assert len(printed) == 6
    assert read_lines(out / "new.jsonl") == [
        {"id": 1, "question": "what can rattle and whistle ? organs sweaters ducks trams"},
        {"id": 2, "question": "what can rust and break ? ferries lorries guitars scissors chestnuts"},
        {"id": 3, "question": "what can dive and nest ? owls scarves rafts poplars tuna"},
    ]
    assert read_lines(out / "train.jsonl")[0] == {
        "question": "what can rust and hum ? pike buses ships saws clarinets",
        "why": "fish include pike . tools include saws . vehicles include buses . boats include ships . "
        "instruments include clarinets . vehicles can rust and hum .",
        "answer": "buses",
    }


def test_every_answer_is_the_one_choice_that_can_do_both(tmp_path):
    splits = example.questions(train_rows=300)
    asked = [question.identity for split in splits.values() for question in split]
    assert len(asked) == len(set(asked)) == 300 + 200 + 500 + 3
    for question in splits["train"]:
        able = [
            noun
            for noun in question.choices
            if all(demo_world.WORLD.kind_of(noun) in demo_world.WORLD.can[verb] for verb in question.verbs)
        ]
        assert able == [question.answer]


def test_every_word_has_a_piece():
    files = example.files(train_rows=400)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=files["vocabulary.model"])
    assert pieces.vocab_size() <= demo_world.VOCABULARY_SIZE
    for name in ("train.jsonl", "test.jsonl"):
        for line in files[name].decode().splitlines():
            for text in json.loads(line).values():
                assert pieces.unk_id() not in pieces.encode(text), text
    for prefix in ("[label] x", "[rationale] x"):
        assert pieces.encode(prefix)[0] != pieces.unk_id()


def test_the_same_arguments_keep_the_files(tmp_path, capsys):
    command = ["example", f"--output={tmp_path / 'rows'}", "--train_rows=5"]
    assert main.main(command) == 0
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "rows").iterdir()}
    capsys.readouterr()
    assert main.main(command) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["kept"] * 5 + ["next:"]
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "rows").iterdir()}


def test_other_files_are_not_overwritten(tmp_path, capsys):
    mine = tmp_path / "test.jsonl"
    mine.write_text("mine\n")
    assert main.main(["example", f"--output={tmp_path}", "--train_rows=5"]) == 2
    assert capsys.readouterr().err == (
        f"distill example: {mine} exists and differs from what would be written; nothing was written. "
        "Give another --output, or delete it\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["test.jsonl"]
    assert mine.read_text() == "mine\n"
    assert main.main(["example", f"--output={mine}"]) == 2
    assert capsys.readouterr().err == f"distill example: --output must be a folder; {mine} is a file\n"


def test_a_folder_of_other_files_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine\n")
    (tmp_path / ".hidden").touch()
    assert main.main(["example", f"--output={tmp_path}", "--train_rows=5"]) == 2
    assert capsys.readouterr().err == (
        f"distill example: --output={tmp_path} holds other files (notes.txt); nothing was written. Give a new or an empty "
        f"folder, such as --output={tmp_path / 'rows'}\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "notes.txt"]
    (tmp_path / "notes.txt").unlink()
    command = ["example", f"--output={tmp_path}", "--train_rows=5"]
    assert main.main(command) == 0
    (tmp_path / "answers.jsonl").touch()  # an output beside the rows
    (tmp_path / "train.jsonl").unlink()
    assert main.main(command) == 0
    assert (tmp_path / "train.jsonl").exists()


def test_bad_flags(tmp_path, capsys):
    assert main.main(["example", f"--output={tmp_path}", "--seed=-1"]) == 2
    assert capsys.readouterr().err == "distill example: --seed must be at least 0; got -1\n"
    with pytest.raises(SystemExit) as ended:
        main.main(["example", f"--output={tmp_path}", "--train_rows=0"])
    assert ended.value.code == 2
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="--train_rows must be at least 1; got 0"):
        example.questions(train_rows=0)


def test_another_seed_asks_other_questions_about_the_same_vocabulary():
    first, second = example.files(train_rows=20), example.files(train_rows=20, seed=1)
    assert first["train.jsonl"] != second["train.jsonl"]
    assert first["vocabulary.model"] == second["vocabulary.model"]
    assert example.files(train_rows=10)["test.jsonl"] == first["test.jsonl"]
    assert first["train.jsonl"].startswith(example.files(train_rows=10)["train.jsonl"])


def test_the_next_command_names_files_that_the_recipe_does_not(tmp_path):
    assert (
        example.next_command(Path("rows"))
        == "distill train --gin_file=gin/recipes/quickstart.gin --gin.MODEL_DIR=runs/first"
    )
    words = shlex.split(example.next_command(Path("my rows")))
    files = {split: f"my rows/{split}.jsonl" for split in ("train", "validation", "test")}
    assert words[3:5] == [f"--gin.FILES={json.dumps(files)}", "--gin.VOCABULARY_PATH=my rows/vocabulary.model"]


def test_both_sequences_of_every_row_fit_into_one_window_of_the_recipe():
    files = example.files()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=files["vocabulary.model"])

    def tokens(text):
        return len(pieces.encode(text)) + 1  # EOS

    inputs, labels, rationales = 0, 0, 0
    for line in files["train.jsonl"].decode().splitlines():
        row = json.loads(line)
        inputs = max(inputs, tokens("[label] " + row["question"]), tokens("[rationale] " + row["question"]))
        labels = max(labels, tokens(row["answer"]))
        rationales = max(rationales, tokens(row["why"]))
    assert (inputs, labels, rationales) == (13, 2, 27)
    configuration.parse([example.RECIPE], ["MODEL_DIR = 'runs/x'"])
    assert configuration.macro("TASK_FEATURE_LENGTHS") == {"inputs": 32, "targets": 32}
    assert 2 * inputs <= 32 and labels + rationales <= 32
    assert configuration.macro("FILES") == {
        split: f"{example.RECIPE_DIRECTORY}/{split}.jsonl" for split in ("train", "validation", "test")
    }
    assert configuration.macro("VOCABULARY_PATH") == f"{example.RECIPE_DIRECTORY}/{example.VOCABULARY}"
    assert configuration.macro("VOCAB_SIZE") >= pieces.vocab_size()
