"""Trains a SentencePiece vocabulary with T5's special ids: padding 0, EOS 1, unknown 2.

python -m tools.vocabulary --input=rows.jsonl --fields=question,why,answer --size=4000 --output=rows.model
python -m tools.vocabulary --input=text.txt --input=more.txt --size=8000 --model_type=bpe
python -m tools.vocabulary --set=svamp --data_dir=DIR --size=2000
"""

import argparse
import importlib
import io
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece
from etils import epath

from tasks import sources
from tasks.dataset import Dataset
from tasks.records import SourceError

MODEL_TYPES = ("unigram", "bpe", "word", "char")
PREFIXES = ("[label] ", "[rationale] ", "So the answer is")


def text_lines(path: epath.PathLike) -> Iterator[str]:
    """The lines of a text file. Raises SourceError if it is missing or not UTF-8."""
    with sources.open_bytes(path, "text for the vocabulary") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise SourceError(f"{path}:{number}: not UTF-8") from error
            if text:
                yield text


def json_texts(path: epath.PathLike, fields: Sequence[str] = ()) -> Iterator[str]:
    """The texts in a JSON-lines file's rows (or an array's), also those in lists; of some fields, or of all.

    Raises:
      SourceError: the file is missing, a line is broken, or no row has one of the fields.
    """
    seen: set[str] = set()
    for line, row in sources.read_rows(path, "rows for the vocabulary"):
        if isinstance(row, ValueError):
            raise SourceError(f"{path}:{line}: {row}")
        seen.update(row)
        for name in fields or row:
            value = row.get(name)
            yield from (text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))
    absent = [name for name in fields if name not in seen]
    if absent:
        raise SourceError(f"{path}: no row has the field {absent[0]!r} (the rows have: {', '.join(sorted(seen))})")


def record_texts(dataset: Dataset, splits: Sequence[str] = ("train",)) -> Iterator[str]:
    """Every text that the tasks of a data set will encode: inputs, labels, rationales."""
    for split in splits:
        for record in dataset.records(split):
            texts = [*record.input.split(dataset.separator or "\0"), record.label, record.llm_label, *record.rationales]
            yield from (text for text in texts if text)


def train(
    texts: Iterable[str],
    size: int,
    *,
    model_type: str = "unigram",
    symbols: Sequence[str] = (),
    split_digits: bool = False,
    character_coverage: float = 1.0,
    exact_size: bool = False,
) -> bytes:
    """A SentencePiece model.

    Args:
      texts: what to learn from.
      size: pieces, the three special ones included.
      model_type: ``unigram``, ``bpe``, ``word`` or ``char``.
      symbols: texts that always are one piece.
      split_digits: whether every digit is a piece of its own, which helps with arithmetic.
      character_coverage: the share of characters that must have pieces; the others are unknown.
      exact_size: whether fewer pieces than ``size``, for want of text, are an error.

    Returns:
      The model, serialized: what belongs in a ``.model`` file.

    Raises:
      ValueError: an argument is out of range, there is no text, or the text does not support so many (or so few) pieces.
    """
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type must be one of {', '.join(MODEL_TYPES)}; got {model_type!r}")
    if size < 4:
        raise ValueError(f"size must be at least 4 (three special pieces and one more); got {size}")
    # SentencePiece reads lines, and treats a text with a line break as two.
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    if not lines:
        raise ValueError("there is no text to train on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            user_defined_symbols=list(symbols),
            split_digits=split_digits,
            character_coverage=character_coverage,
            hard_vocab_limit=exact_size and model_type not in ("word", "char"),
            use_all_vocab=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_why(str(error), size, model_type)) from error
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    if exact_size and trained != size:
        raise ValueError(f"the text gives {trained} pieces, not {size}; ask for {trained}, or leave exact_size off")
    return model.getvalue()


def _why(message: str, size: int, model_type: str) -> str:
    limit = re.search(r"value <= (\d+)", message)
    if limit:
        return f"size {size} is more than the text supports; at most {limit[1]} for a {model_type} model"
    if "required_chars" in message or "smaller than" in message:
        needed = re.search(r"(\d+) vs (\d+)", message)
        hint = f": its characters alone need {needed[2]}" if needed else ""
        return f"size {size} is too small for the text{hint}; ask for more or lower character_coverage"
    return f"SentencePiece could not train a {model_type} model of size {size}: {message}"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.vocabulary", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--input", action="append", default=[], help="text, .json or .jsonl file; may be given again")
    parser.add_argument("--fields", default="", help="fields of JSON rows to use, separated by commas (default: all)")
    parser.add_argument("--set", default="", help="a data set in the paper's layout instead: svamp, cqa, esnli …")
    parser.add_argument("--data_dir", default="", help="where --set's files are")
    parser.add_argument("--size", type=int, required=True, help="number of pieces")
    parser.add_argument("--output", default="vocabulary.model", help="where to write the model")
    parser.add_argument("--model_type", default="unigram", choices=MODEL_TYPES)
    parser.add_argument("--symbols", default="", help="texts that always are one piece, separated by commas")
    parser.add_argument("--split_digits", action="store_true", help="make every digit a piece of its own")
    parser.add_argument("--character_coverage", type=float, default=1.0)
    parser.add_argument("--exact_size", action="store_true", help="fail if the text gives fewer pieces")
    arguments = parser.parse_args(argv)
    if bool(arguments.input) == bool(arguments.set):
        parser.error("give either --input files or --set with --data_dir")
    if arguments.set and not arguments.data_dir:
        parser.error("--set needs --data_dir")
    return arguments


def _texts(arguments: argparse.Namespace) -> Iterator[str]:
    yield from PREFIXES
    if arguments.set:
        if arguments.set not in ("cqa", "svamp", "esnli", "anli1", "asdiv"):
            raise ValueError(f"unknown set {arguments.set!r}; expected cqa, svamp, esnli, anli1 or asdiv")
        module = importlib.import_module(f"tasks.{arguments.set}")
        yield from record_texts(module.dataset(arguments.data_dir))
    fields = [name for name in arguments.fields.split(",") if name]
    for path in arguments.input:
        if path.endswith((".json", ".jsonl")):
            yield from json_texts(path, fields)
        else:
            yield from text_lines(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and writes a model; returns the exit status."""
    arguments = _arguments(argv)
    try:
        model = train(
            _texts(arguments),
            arguments.size,
            model_type=arguments.model_type,
            symbols=[symbol for symbol in arguments.symbols.split(",") if symbol],
            split_digits=arguments.split_digits,
            character_coverage=arguments.character_coverage,
            exact_size=arguments.exact_size,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    output = epath.Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    print(f"{output}: {pieces} pieces ({arguments.model_type})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
