"""Trains a SentencePiece vocabulary with the special ids of T5 (padding 0, EOS 1, unknown 2) or Gemma (BOS 2, unknown 3).

distill vocabulary --input=rows.jsonl --fields=question,why,answer --size=4000 --output=rows.model
distill vocabulary --input=text.txt --input=more.txt --size=8000 --model_type=bpe
distill vocabulary --input=books.txt.gz --size=4000 --extra_ids=96
distill vocabulary --set=svamp --data_dir=DIR --size=2000
distill vocabulary --input=rows.jsonl --size=4000 --special=gemma
"""

import argparse
import collections
import contextlib
import importlib
import io
import re
import signal
import string
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distill import atomic_files, exit_codes, validation
from distill.counting import counted

if TYPE_CHECKING:
    from etils import epath

    from distill.tasks.dataset import Dataset

MODEL_TYPES = ("unigram", "bpe", "word", "char")
PREFIXES = ("[label] ", "[rationale] ", "So the answer is")
SPECIALS = ("t5", "gemma")
# Options of SentencePiece's trainer. Gemma's: the ids, pieces and normalisation of its public files, as `transformers`'
# GemmaTokenizer has them.
_TRAINER: dict[str, dict[str, Any]] = {
    "t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "gemma": {
        "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "pad_piece": "<pad>", "eos_piece": "<eos>",
        "bos_piece": "<bos>", "unk_piece": "<unk>", "byte_fallback": True, "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "normalization_rule_name": "identity",
    },
}  # fmt: skip
_GEMMA_SYMBOLS = ("<mask>", "<start_of_turn>", "<end_of_turn>")
# Special pieces, and one more; Gemma's has one piece per byte, too.
_SMALLEST = {"t5": 4, "gemma": 4 + len(_GEMMA_SYMBOLS) + 256 + 1}
_LARGEST = 2**31 - 1
_LINE_BYTES = 4192  # SentencePiece's default: the longest line that it reads
_SHOWN = 12  # unknown characters that a warning names


def text_lines(path: "epath.PathLike") -> Iterator[str]:
    """The lines of a text file. Raises SourceError if it is missing or not UTF-8."""
    from distill.tasks import sources
    from distill.tasks.records import SourceError

    empty = True
    with sources.open_bytes(path, "text for the vocabulary") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise SourceError(f"{path}:{number}: not UTF-8") from error
            if text:
                empty = False
                yield text
    if empty:
        raise SourceError(f"{path} holds no text; expected lines of text")


def json_texts(path: "epath.PathLike", fields: Sequence[str] = ()) -> Iterator[str]:
    """The texts in a JSON-lines file's rows (or an array's), also those in lists; of some fields, or of all.

    Rows that cannot be read are left out, with one warning.

    Raises:
      SourceError: the file is missing, no row can be read, or no row has one of the fields.
    """
    from distill.tasks import sources
    from distill.tasks.records import SourceError

    seen: set[str] = set()
    rejected: list[str] = []
    for line, row in sources.read_rows(path, "rows for the vocabulary"):
        if isinstance(row, ValueError):
            rejected.append(f"{path}:{line}: {row}")
            continue
        seen.update(row)
        for name in fields or row:
            value = row.get(name)
            yield from (text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))
    if not seen:
        raise SourceError(rejected[0] if rejected else f"{path} holds no row with a field")
    absent = [name for name in fields if name not in seen]
    if absent:
        hint = validation.did_you_mean(absent[0], sorted(seen))
        raise SourceError(
            f"{path}: no row has the field {absent[0]!r}{hint} (the rows have: {', '.join(sorted(seen))})"
        )
    if rejected:
        _warn(f"{counted(len(rejected), 'row')} left out, first: {rejected[0]}")


def record_texts(dataset: "Dataset", splits: Sequence[str] = ("train",)) -> Iterator[str]:
    """Every text that the tasks of a data set will encode: inputs, labels, rationales."""
    for split in splits:
        for record in dataset.records(split):
            texts = [*record.input.split(dataset.separator or "\0"), record.label, record.llm_label, *record.rationales]
            yield from (text for text in texts if text)


def train(
    texts: Iterable[str],
    size: int,
    *,
    model_type: str | None = None,
    special: str = "t5",
    symbols: Sequence[str] = (),
    split_digits: bool = False,
    character_coverage: float = 1.0,
    required_characters: str = "",
    exact_size: bool = False,
    extra_ids: int = 0,
) -> bytes:
    """A SentencePiece model.

    Args:
      texts: the training texts.
      size: pieces, the special ones included.
      model_type: ``unigram``, ``bpe``, ``word`` or ``char``; None: ``unigram``, or ``bpe`` with ``special="gemma"``.
      special: whose special pieces and treatment of spaces: ``t5``, or ``gemma``, which students of the T5Gemma families
        need: ``<pad>`` 0, ``<eos>`` 1, ``<bos>`` 2, ``<unk>`` 3, ``<mask>``, ``<start_of_turn>``, ``<end_of_turn>``, a
        piece per byte, digits split, and spaces kept as they are.
      symbols: texts that always are one piece.
      split_digits: whether each digit is a piece of its own, which helps with arithmetic, and all ten have one even if the
        texts do not; ``gemma`` always splits digits.
      character_coverage: the share of the texts' characters that get pieces, in [0.98, 1], the frequent ones first; the
        others are unknown.
      required_characters: characters that get pieces however rare they are, as SentencePiece normalises them (½ is 1⁄2);
        white space needs none.
      exact_size: whether it is an error that the text gives fewer pieces than ``size``.
      extra_ids: sentinels for span corruption, appended to the ``size`` pieces as in T5's file: ``<extra_id_0>`` last.

    Returns:
      The serialized model: the contents of a ``.model`` file.

    Raises:
      ValueError: an argument is out of range, there is no text, or the text does not support this number of pieces.
    """
    import sentencepiece

    from distill.tasks import plain_vocabularies

    model_type = _checked(size, model_type, special, character_coverage, extra_ids)
    gemma = special == "gemma"
    required = _normalised(required_characters, gemma) + (string.digits if split_digits else "")
    # SentencePiece reads lines, and treats a text with a line break as two.
    lines = [part for text in texts for line in text.split("\n") if line.strip() for part in _parts(line)]
    if not lines:
        raise ValueError("there is no text to train on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            user_defined_symbols=[*(_GEMMA_SYMBOLS if gemma else ()), *symbols],
            split_digits=split_digits or gemma,
            character_coverage=character_coverage,
            required_chars="".join(dict.fromkeys(required)),
            hard_vocab_limit=exact_size and model_type not in ("word", "char"),
            use_all_vocab=False,
            minloglevel=2,
            **_TRAINER[special],
        )
    except RuntimeError as error:
        raise ValueError(_why(str(error), size, model_type, bool(required))) from error
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    if exact_size and trained != size:
        raise ValueError(f"the text gives {trained} pieces, not {size}; set size to {trained}, or leave exact_size off")
    if not extra_ids:
        return model.getvalue()
    return plain_vocabularies.with_extra_ids(model.getvalue(), extra_ids, "the vocabulary")


def _checked(size: int, model_type: str | None, special: str, character_coverage: float, extra_ids: int) -> str:
    """The type of the model. Raises ValueError for arguments of :func:`train` that no text supports."""
    validation.check("special", special, SPECIALS)
    gemma = special == "gemma"
    model_type = model_type or ("bpe" if gemma else "unigram")
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type must be one of {', '.join(MODEL_TYPES)}; got {model_type!r}")
    if gemma and model_type != "bpe":
        raise ValueError(f"model_type must be 'bpe' with special='gemma', as Gemma's is; got {model_type!r}")
    if size < _SMALLEST[special]:
        reason = "its special pieces, 256 bytes and one more" if gemma else "three special pieces and one more"
        raise ValueError(f"size must be at least {_SMALLEST[special]} ({reason}); got {size}")
    if size > _LARGEST:
        raise ValueError(f"size must be at most {_LARGEST}; got {size}")
    validation.check_range("character_coverage", character_coverage, "in [0.98, 1]")
    if extra_ids < 0:
        raise ValueError(f"extra_ids must be ≥ 0; got {extra_ids}")
    return model_type


def _normalised(characters: str, gemma: bool) -> str:
    """Required characters as SentencePiece reads them, without white space.

    Raises:
      ValueError: not Unicode text, or white space alone.
    """
    import sentencepiece

    try:
        characters.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"required_characters must be text in UTF-8; got {characters!r}") from error
    if not gemma:  # which keeps characters as they are
        normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
        read = str(normalizer.normalize(characters)).replace("▁", " ")
    else:
        read = characters
    kept = "".join(read.split())
    if characters and not kept:
        raise ValueError(f"required_characters names no character; white space needs no piece; got {characters!r}")
    return kept


def _parts(line: str) -> Iterator[str]:
    """A line in parts of at most ``_LINE_BYTES``, cut at spaces where there are any.

    SentencePiece leaves out longer lines, and with them the characters that no other line has.
    """
    if len(line.encode()) <= _LINE_BYTES:
        yield line
        return
    part = ""
    for word in line.split():
        for begin in range(0, len(word), _LINE_BYTES // 4):  # a character has at most four bytes
            piece = word[begin : begin + _LINE_BYTES // 4]
            if part and len(f"{part} {piece}".encode()) > _LINE_BYTES:
                yield part
                part = ""
            part = f"{part} {piece}" if part and begin == 0 else part + piece
    yield part


def unknown_characters(model: bytes, texts: Iterable[str]) -> collections.Counter[str]:
    """Counts the characters of ``texts`` that a SentencePiece model represents by the unknown token."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    found = collections.Counter[str]()
    for text in texts:
        found.update(text)
    return collections.Counter({c: n for c, n in found.items() if processor.unk_id() in processor.encode(f"a{c}")})


def of_words(texts: Iterable[str], size: int) -> bytes:
    """A unigram SentencePiece model whose pieces are the words of ``texts``, and then their characters.

    A known word is one piece, as in a model of the type ``word``, which `transformers` cannot represent. An unknown word
    is spelt with a known beginning and characters.

    Args:
      texts: the training texts.
      size: pieces at most, the special ones included.

    Raises:
      ValueError: there is no text, or words and characters need more pieces.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(train(texts, size, model_type="word"))  # type: ignore[attr-defined]
    words = [entry for entry in model.pieces if entry.type == entry.NORMAL]
    lowest = min(entry.score for entry in words) - 10.0  # a spelling never scores as high as a word
    known = {entry.piece for entry in model.pieces}
    for character in sorted({character for entry in words for character in entry.piece} - known):
        model.pieces.add(piece=character, score=lowest)
    if len(model.pieces) > size:
        raise ValueError(f"size {size} is too small: the words and their characters need {len(model.pieces)} pieces")
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()


def _why(message: str, size: int, model_type: str, requires: bool) -> str:
    limit = re.search(r"value <= (\d+)", message)
    if limit:
        return f"size {size} is more than the text supports; at most {limit[1]} for a {model_type} model"
    if "required_chars" in message or "smaller than" in message:
        needed = re.search(r"(\d+) vs (\d+)", message)
        characters = "its characters and the required ones" if requires else "its characters"
        hint = f": {characters} alone need {needed[2]}" if needed else ""
        fewer = ", or require fewer characters" if requires else ""
        return f"size {size} is too small for the text{hint}; raise it, or lower character_coverage{fewer}"
    return f"SentencePiece could not train a {model_type} model of size {size}: {message}"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the flags of ``distill vocabulary``."""
    command.add_argument(
        "--input", action="append", default=[], metavar="FILE", help="text or JSON rows, also as .gz; may repeat"
    )
    command.add_argument("--fields", default="", help="fields of JSON rows to use, comma-separated; default: all")
    command.add_argument("--set", default="", help="instead of --input: a data set in the paper's layout, as svamp")
    command.add_argument("--data_dir", default="", help="with --set: the folder that holds the data set")
    command.add_argument("--size", type=int, required=True, help="largest number of pieces")
    command.add_argument("--output", default="vocabulary.model", help="file to write; default: vocabulary.model")
    command.add_argument(
        "--model_type",
        choices=MODEL_TYPES,
        help="algorithm of SentencePiece; default: unigram, with --special=gemma bpe",
    )
    command.add_argument(
        "--special",
        default="t5",
        choices=SPECIALS,
        help="special pieces: t5, or gemma, which T5Gemma students need (BOS 2, bytes, spaces kept); default: t5",
    )
    command.add_argument("--symbols", default="", help="texts that are always one piece, comma-separated")
    command.add_argument("--split_digits", action="store_true", help="make every digit a separate piece")
    command.add_argument(
        "--character_coverage",
        type=float,
        default=1.0,
        help="share of characters that get a piece, 0.98 to 1; default: 1.0",
    )
    command.add_argument(
        "--required_characters",
        default="",
        metavar="TEXT",
        help="characters that get a piece however rare they are, as '+-*/='; with --split_digits the digits, too",
    )
    command.add_argument(
        "--extra_ids", type=int, default=0, help="sentinels to append, which pretraining needs: 100 in T5; default: 0"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace another vocabulary in --output; an equal one is kept anyway"
    )
    command.add_argument("--exact_size", action="store_true", help="fail if the text gives fewer pieces than --size")


def _texts(options: argparse.Namespace) -> Iterator[str]:
    if options.set:
        if options.set not in ("cqa", "svamp", "esnli", "anli1", "asdiv"):
            raise ValueError(f"unknown set {options.set!r}; expected cqa, svamp, esnli, anli1 or asdiv")
        module = importlib.import_module(f"distill.tasks.{options.set}")
        yield from record_texts(module.dataset(options.data_dir))
    fields = [name for name in options.fields.split(",") if name]
    for path in options.input:
        if path.removesuffix(".gz").endswith((".json", ".jsonl")):
            yield from json_texts(path, fields)
        else:
            yield from text_lines(path)


def run(options: argparse.Namespace) -> int:
    """Trains and writes a model; returns the exit code.

    Raises:
      ValueError: arguments that exclude each other, rows that cannot be used, a size that the text does not support, or an
        output that holds something else.
    """
    import sentencepiece
    from etils import epath

    if bool(options.input) == bool(options.set):
        raise ValueError("the texts come from --input files or from --set with --data_dir; give one of the two")
    if options.set and not options.data_dir:
        raise ValueError("--set needs --data_dir, the folder that holds the data set")
    output = epath.Path(options.output)
    if output.is_dir():
        raise ValueError(f"--output={options.output} is a folder; give a file, such as {output / 'vocabulary.model'}")
    kind = _checked(options.size, options.model_type, options.special, options.character_coverage, options.extra_ids)
    texts = list(_texts(options))
    print(f"training a vocabulary on {counted(len(texts), 'text')}", file=sys.stderr)
    required = options.required_characters
    if options.character_coverage < 1 and (not required or required.strip()):
        required += "".join(PREFIXES)  # which begin the inputs of every run
    with _ended_by_signals():
        model = train(
            [*PREFIXES, *texts],
            options.size,
            model_type=options.model_type,
            special=options.special,
            symbols=[symbol for symbol in options.symbols.split(",") if symbol],
            split_digits=options.split_digits,
            character_coverage=options.character_coverage,
            required_characters=required,
            exact_size=options.exact_size,
            extra_ids=options.extra_ids,
        )
    if output.exists() and not options.overwrite and output.read_bytes() != model:
        raise ValueError(
            f"--output={output} exists, and is another file than the vocabulary that was trained now; students that use it "
            "would lose it: name another --output, or give --overwrite"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.replace(output, model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    fewer = f", fewer than --size={options.size}: the text supports no more"
    print(f"{output}: {pieces} pieces ({kind}){fewer if pieces - options.extra_ids < options.size else ''}")
    if kind != "word" and (unknown := unknown_characters(model, texts)):
        _warn(_of_unknown(unknown))
    return 0


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the process inside, at once: SentencePiece does not return to Python while it trains."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _warn(text: str) -> None:
    print(f"WARNING {text}", file=sys.stderr)


def _of_unknown(unknown: collections.Counter[str]) -> str:
    """A warning with the most frequent unknown characters.

    >>> _of_unknown(collections.Counter({"7": 2, "ü": 1}))[:74]
    "the vocabulary has no piece for 3 characters of the text: '7' (2), 'ü' (1)"
    """
    shown = ", ".join(f"{character!r} ({number:,})" for character, number in unknown.most_common(_SHOWN))
    more = f" and {counted(len(unknown) - _SHOWN, 'other')}" if len(unknown) > _SHOWN else ""
    return (
        f"the vocabulary has no piece for {counted(unknown.total(), 'character')} of the text: {shown}{more}. "
        "A student can neither read nor write them; --required_characters or a higher --character_coverage gives them one"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m tools.vocabulary``: as ``distill vocabulary``. Returns the exit code; mistakes end in one line and 2."""
    parser = argparse.ArgumentParser(prog="distill vocabulary", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except (ValueError, FileNotFoundError) as error:
        print(f"distill vocabulary: {error}", file=sys.stderr)
        return exit_codes.MISTAKE


if __name__ == "__main__":
    sys.exit(main())
