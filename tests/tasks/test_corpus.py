"""Text files and JSON rows as passages, and their windows as batches."""

import errno
import gzip
import io
import json
import os
import tracemalloc

import pytest
import seqio

from distill.data.batches import BatchStream
from distill.data.packing import Layout
from distill.tasks import corpus, registration
from distill.tasks.records import Report, SourceError

TEXT = "".join(f"Paragraph {number}: " + "words of a book " * 6 + "\n\n" for number in range(120))
LENGTHS = {"inputs": 64, "targets": 24}


def texts(path, **options):
    return [record.input for record in corpus.Texts({"train": str(path)}, **options)("train")]


def test_passages_keep_all_words_in_their_order(tmp_path):
    path = tmp_path / "book.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    found = texts(path, passage_characters=500)
    assert len(found) > 20 and "".join(found).split() == TEXT.split()
    assert all(500 <= len(text) <= 1000 for text in found[:-1])


def test_a_form_feed_ends_a_passage_and_long_lines_are_cut_at_spaces(tmp_path):
    path = tmp_path / "two.txt"
    path.write_text("one\n\f\ntwo\n" + "long line " * 100)
    found = texts(path, passage_characters=100)
    assert found[:2] == ["one\n", "two\n"] and all(len(text) <= 200 for text in found)
    assert "".join(found).split() == path.read_text().replace("\f", "").split()
    assert all(text.endswith(" ") for text in found[2:])


def test_json_rows_and_several_files(tmp_path):
    rows = [{"text": "first"}, {"other": 1}, {"text": " "}, {"text": "last\nline"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text("plain")
    source = corpus.Texts({"train": [str(tmp_path / "*.jsonl"), str(tmp_path / "b.txt")]})
    report = Report()
    records = list(source("train", report))
    assert [record.input for record in records] == ["first", "last\nline", "plain"]
    assert [problem.reason for problem in report.problems] == ["field 'text' is absent", "field 'text' is blank"]
    assert len({record.id for record in records}) == 3


def test_text_that_cannot_be_used_is_refused_by_name(tmp_path):
    empty, latin, cut = (tmp_path / name for name in ("empty.txt", "latin.txt", "cut.txt.gz"))
    empty.write_text(" \n\n")
    latin.write_bytes(b"fine\ncaf\xe9\n")
    cut.write_bytes(gzip.compress(TEXT.encode())[:60])
    with pytest.raises(SourceError, match=r"split 'train' has no text: .*empty\.txt is empty or blank"):
        texts(empty)
    with pytest.raises(SourceError, match=r"latin\.txt:2: not UTF-8 \(byte 0xe9\)"):
        texts(latin)
    with pytest.raises(SourceError, match=r"cut\.txt\.gz: the compressed file is damaged"):
        texts(cut)


def test_a_long_line_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_BLOCK", 2**14 + 1)
    path = tmp_path / "long.txt.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + "café and more ".encode() * 2**18, 1))
    size = found = 0
    tracemalloc.start()
    for record in corpus.Texts({"train": str(path)}, passage_characters=500)("train"):
        found += record.input.count("café and more")
        size += len(record.input)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert size == 14 * 2**18 and found > 0.9 * 2**18
    path.write_bytes(gzip.compress(b"fine\n" + b"x" * 2**14 + b"\xc3"))
    with pytest.raises(SourceError, match=r"long\.txt\.gz:2: not UTF-8 \(byte 0xc3\)"):
        texts(path)


def test_a_fault_of_the_storage_is_no_damage(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def readline(self, size=-1):
            raise OSError(errno.EIO, os.strerror(errno.EIO), "book.txt")

        __next__ = readline

    (tmp_path / "book.txt").write_text(TEXT)
    monkeypatch.setattr(corpus.sources, "open_bytes", lambda *_: Failing(TEXT.encode()))
    with pytest.raises(OSError, match="Input/output error") as raised:
        texts(tmp_path / "book.txt")
    assert not isinstance(raised.value, SourceError)
    with pytest.raises(ValueError, match="FILES must map splits"):
        corpus.Texts("book.txt")
    with pytest.raises(
        ValueError, match=r"have 14 target tokens .*'targets': 13\}: set TASK_FEATURE_LENGTHS=.*'targets': 14"
    ):
        corpus.dataset({"train": "x.txt"}, feature_lengths={"inputs": 64, "targets": 13})


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book.txt").write_text(TEXT)
    settings = {"feature_lengths": LENGTHS, "passage_characters": 300, "validation_fraction": 0.1}
    return corpus.dataset({"train": str(tmp_path / "book.txt")}, **settings)


def test_validation_passages_are_held_out_by_hash(book):
    train, held = ([record.input for record in book.records(split)] for split in ("train", "validation"))
    assert len(train) > 3 * len(held) > 0 and not set(train) & set(held)
    assert sorted("".join(train + held).split()) == sorted(TEXT.split())


def test_batches_are_full_deterministic_masked_anew_each_epoch_and_continue(book):
    names = registration.register(book, "bytes")
    layout = Layout(windows=8, encoder_length=64, decoder_length=24)
    stream = BatchStream(names.spans, layout, seed=3)
    size = stream.size(names.spans)
    batches = [next(stream) for _ in range(2 * size // 8)]
    first = batches[0].arrays
    assert (first["encoder_segment_ids"] == 1).all() and first["decoder_loss_weights"].sum() == 8 * 14
    assert batches[-1].epoch > 1
    again = BatchStream(names.spans, layout, seed=3)
    again.restore(json.loads(json.dumps(batches[-2].position)))
    for name, value in next(again).arrays.items():
        assert (value == batches[-1].arrays[name]).all()
    rows = {tuple(row) for batch in batches for row in batch.arrays["encoder_input_tokens"].tolist()}
    assert len(rows) > 1.9 * size  # a second epoch has other spans of the same windows


def test_text_shorter_than_one_window_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    short = corpus.dataset({"train": str(tmp_path / "short.txt"), "validation": str(tmp_path / "short.txt")})
    name = registration.register(short, "bytes").spans
    layout = Layout(windows=1, encoder_length=512, decoder_length=114)
    with pytest.raises(
        ValueError, match=r"text of split 'train' is shorter than one window of 568 tokens, which gives 512"
    ):
        next(BatchStream(name, layout))


def test_only_a_corpus_has_spans(book):
    assert registration.register(book, "bytes").spans == "text_spans"
    task = seqio.TaskRegistry.get("text_spans")
    spans = registration.spans_of(task)
    assert spans == book.spans and spans.window == 70
    assert registration.spans_of(seqio.TaskRegistry.get("text_label")) is None
    assert registration.draws_at_random("text_spans", "train")
