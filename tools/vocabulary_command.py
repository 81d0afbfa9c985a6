"""``distill vocabulary``: reads texts, trains a SentencePiece vocabulary on them and writes it.

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
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distill import atomic_files, outputs, validation
from distill.counting import counted
from distill.tools import vocabulary

if TYPE_CHECKING:
    from etils import epath

    from distill.tasks.dataset import Dataset

PREFIXES = ("[label] ", "[rationale] ", "So the answer is")
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
        choices=vocabulary.MODEL_TYPES,
        help="algorithm of SentencePiece; default: unigram, with --special=gemma bpe",
    )
    command.add_argument(
        "--special",
        default="t5",
        choices=vocabulary.SPECIALS,
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
        from distill.tasks import paper_files

        validation.check("--set", options.set, paper_files.SETS)
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
    outputs.check({"--output": output}, options.input)
    kind = vocabulary.checked_type(
        options.size, options.model_type, options.special, options.character_coverage, options.extra_ids
    )
    texts = list(_texts(options))
    print(f"training a vocabulary on {counted(len(texts), 'text')}", file=sys.stderr)
    required = options.required_characters
    if options.character_coverage < 1 and (not required or required.strip()):
        required += "".join(PREFIXES)  # which begin the inputs of every run
    with _ended_by_signals():
        model = vocabulary.train(
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
    if kind != "word" and (unknown := vocabulary.unknown_characters(model, texts)):
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
