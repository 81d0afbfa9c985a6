"""Statistics of data sets: the share of replies that parse, the teacher's accuracy, lengths and truncation.

:mod:`distill.data.report_text` prints them for ``distill data``. This module needs no accelerator, and TensorFlow only if
the vocabulary or the rows need it.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill.data import repeats, tallies
from distill.tasks import arithmetic, metrics, parsers
from distill.tasks import lengths as measuring
from distill.tasks.dataset import Dataset, EmptySplitError
from distill.tasks.json_files import MissingFileError
from distill.tasks.records import REPLY, ROW, UNDECIDED, Problem, Record, Report
from distill.tasks.selection import Selection
from distill.tasks.texts import SINGLE_MARKER

LABEL_PREFIX = "[label] "
RATIONALE_PREFIX = "[rationale] "


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of a planned run that the report needs.

    Attributes:
      vocabulary: see :func:`report`.
      lengths: planned ``inputs`` and ``targets`` lengths.
      max_decode_len: largest number of tokens of a label in evaluation.
      label_prefix, rationale_prefix: prefixes of the inputs of the two tasks.
      encoder_bos: whether BOS precedes the tokens of an input.
      selection: of the rows to train on; None: all.
    """

    vocabulary: str = "t5"
    lengths: Mapping[str, int] | None = None
    max_decode_len: int | None = None
    label_prefix: str = LABEL_PREFIX
    rationale_prefix: str = RATIONALE_PREFIX
    encoder_bos: bool = False
    selection: Selection | None = None


def of_dataset(dataset: Dataset) -> Dataset:
    """Returns ``dataset``; ``gin/runs/data.gin`` names the data set by this function.

    Raises:
      TypeError: not a data set.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"DATASET must be a tasks.dataset.Dataset, as @jsonl.dataset(); got {dataset!r}")
    return dataset


def strict_agreement(answer: metrics.AnswerKind, label: str, llm_label: str) -> bool:
    """Returns whether the published code would count the teacher's label as correct.

    Text must be identical. Equations are compared by value, with Python's ``and`` and ``or``. If the published metric
    raises an error, on a pair of numbers, the label counts as wrong.
    """
    if answer == "equation":
        return arithmetic.same_value(label, llm_label, junctions=True)
    return label == llm_label


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind,
        "reason": problem.reason,
        "file": problem.file,
        "line": problem.line,
        "id": problem.id,
        "text": problem.text,
    }


def _place(record: Record) -> dict[str, Any]:
    return {"id": record.id, **{key: record.provenance.get(key) for key in ("file", "line")}}


def _difference(record: Record) -> parsers.Difference | None:
    origin = record.provenance
    if "reply" not in origin:
        return None
    return parsers.difference(origin["parser"], origin["reply"], record.choices, teacher=_published_teacher(record))


def _published_teacher(record: Record) -> parsers.Teacher:
    return "gpt" if record.provenance.get("teacher") == "gpt-neox" else "palm"


def _labels(record: Record) -> tuple[str | None, str | None]:
    """Returns the teacher's label as parsed in strict and in improved mode; strict is None without a raw reply."""
    origin = record.provenance
    if "reply" not in origin:
        return None, record.llm_label
    name, reply, teacher = origin["parser"], origin["reply"], _published_teacher(record)
    strict = parsers.parse(name, reply, record.choices, mode="strict", teacher=teacher)
    return strict.label or "", parsers.parse(name, reply, record.choices).llm_label


def _outcome(record: Record) -> str:
    """The outcome of a row without a problem: REPLY (failed), UNDECIDED, or "" if the teacher's answer is known."""
    if record.llm_label is not None or "reply" in record.provenance:
        return ""
    return UNDECIDED if record.rationales else REPLY


def _single_targets(record: Record, ruler: measuring.Ruler, rationales: Sequence[int]) -> list[int]:
    """Lengths of the targets of ``FORM=single``, "<rationale> So the answer is <label>".

    Args:
      record: the row; without a label there is no target.
      ruler: measures lengths.
      rationales: lengths of its rationales, each with EOS.
    """
    if record.label is None:
        return []
    answer = f"{SINGLE_MARKER} {record.label}"
    if not any(rationales):
        return [ruler.measure(answer)[0]]
    after = ruler.measure(f" {answer}")[0]
    return [length - ruler.eos + after for length in rationales if length]


def split_report(
    dataset: Dataset,
    split: str,
    vocabulary: Any,
    lengths: Mapping[str, int] | None = None,
    *,
    details: bool = False,
    label_prefix: str = LABEL_PREFIX,
    rationale_prefix: str = RATIONALE_PREFIX,
    encoder_bos: bool = False,
    selection: Selection | None = None,
    inputs: repeats.Repeats | None = None,
) -> dict[str, Any]:
    """Returns the report of one split. Arguments and result as in :func:`report`; ``inputs`` gets the split's rows."""
    lengths = lengths or {}
    inputs = repeats.Repeats() if inputs is None else inputs
    found = Report()
    ruler = vocabulary if isinstance(vocabulary, measuring.Ruler) else measuring.ruler(vocabulary)
    prefixes_known = not any(map(ruler.unknown, (label_prefix, rationale_prefix)))
    measured = {
        "label_inputs": tallies.Lengths(lengths.get("inputs")),
        "label_targets": tallies.Lengths(lengths.get("targets")),
        "rationale_inputs": tallies.Lengths(lengths.get("inputs")),
        "rationale_targets": tallies.Lengths(lengths.get("targets")),
        "single_targets": tallies.Lengths(lengths.get("targets")),
    }
    unknown = {name: tallies.Unknown(ruler) for name in ("input", "label", "rationale", "teacher's label")}
    no_value: list[Record] = []
    right: dict[str, list[bool]] = {"strict": [], "improved": []}  # of every row with a gold label
    differences: list[dict[str, Any]] = []
    truncated: list[dict[str, Any]] = []
    reasons: collections.Counter[str] = collections.Counter()
    rows = replies = parsed = undecided = failed = with_label = with_rationale = with_llm_label = known_problems = 0
    several = used = 0
    lacking: dict[str, list[Record]] = {"no gold label": [], "no rationale": [], "no teacher's label": []}
    for record in dataset.records(split, found):
        rows += 1
        used += selection is None or selection.wants(record, split, dataset)
        inputs.add(split, record)
        if details:
            lacking["no gold label"] += [record] * (record.label is None)
            lacking["no rationale"] += [record] * (not record.rationales)
        of_reply = {problem.id: problem.kind for problem in found.problems[known_problems:] if problem.kind != ROW}
        known_problems = len(found.problems)
        replies += "reply" in record.provenance
        outcome = of_reply.get(record.id) or _outcome(record)
        parsed, undecided, failed = (
            parsed + (not outcome),
            undecided + (outcome == UNDECIDED),
            failed + (outcome == REPLY),
        )
        if details and record.llm_label is None and record.id not in of_reply:
            lacking["no teacher's label"].append(record)
        with_rationale += bool(record.rationales)
        several += len(record.rationales) > 1
        with_llm_label += record.llm_label is not None
        with_label += record.label is not None
        cut: dict[str, str | None] = {}  # sequence → its length and the limit, if it exceeds it
        parts = None  # of the input: whether they have an unknown token
        if record.label is not None:
            length, parts = ruler.measure(label_prefix + record.input, dataset.separator)
            cut["label input"] = measured["label_inputs"].add(encoder_bos + length)
            if dataset.answer == "equation" and arithmetic.evaluate(record.label) is None:
                no_value.append(record)
        if record.rationales:
            length, parts = ruler.measure(rationale_prefix + record.input, dataset.separator)
            cut["rationale input"] = measured["rationale_inputs"].add(encoder_bos + length)
        if parts is None or not prefixes_known:
            parts = ruler.measure(record.input, dataset.separator)[1]
        written = record.input.split(dataset.separator) if dataset.separator else [record.input]
        for text, has_unknown in zip(written, parts, strict=True):
            if text:
                unknown["input"].add(text, has_unknown)
        known: dict[str, tuple[int, list[bool]]] = {}
        rationales = [("rationale", text) for text in record.rationales]
        for name, answer in (("label", record.label), *rationales, ("teacher's label", record.llm_label)):
            if answer is None:
                continue
            known[answer] = known.get(answer) or ruler.measure(answer)
            if name != "teacher's label":
                cut[f"{name} target"] = measured[f"{name}_targets"].add(known[answer][0]) or cut.get(f"{name} target")
            if answer:
                unknown[name].add(answer, known[answer][1][0])
        for length in _single_targets(record, ruler, [known[text][0] for text in record.rationales]):
            measured["single_targets"].add(length)
        if details and any(cut.values()):
            lengths_cut = [f"{name} {length}" for name, length in cut.items() if length]
            truncated.append({"reason": f"truncated: {', '.join(lengths_cut)} tokens", **_place(record)})
        strict, improved = _labels(record)
        if record.label is not None:
            right["strict"].append(strict is not None and strict_agreement(dataset.answer, record.label, strict))
            right["improved"].append(improved is not None and dataset.same_answer(record, improved))
        difference = _difference(record)
        if difference is not None:
            reasons.update(difference.reasons)
            if details:
                differences.append(
                    {
                        "id": record.id,
                        "line": record.provenance.get("line"),
                        "reasons": list(difference.reasons),
                        "strict": difference.strict.label,
                        "improved": difference.improved.llm_label,
                        "gold": record.label,
                    }
                )
    taught = bool(replies or with_llm_label)
    result: dict[str, Any] = {
        "rows": rows,
        "used": used,
        "rejected": len(found.rejected),
        "replies": replies,
        "parsed": parsed if taught else 0,
        "failed": failed if taught else 0,
        "undecided": undecided if taught else 0,
        "with_label": with_label,
        "with_rationale": with_rationale,
        "several_rationales": several,
        "with_llm_label": with_llm_label,
        "problems": found.counts(),
        "agreement": {
            "strict": tallies.agreement(right["strict"]) if replies else None,
            "improved": tallies.agreement(right["improved"]) if taught else None,
        },
        "differences": dict(reasons.most_common()),
        "repeats": inputs.of(split),
        "unknown": {name: counts.summary() for name, counts in unknown.items() if counts.having},
        "no_value": len(no_value),
        "lengths": {name: values.summary() for name, values in measured.items()},
    }
    if no_value:
        origin = no_value[0].provenance
        result["first_no_value"] = {"label": no_value[0].label, "file": origin.get("file"), "line": origin.get("line")}
    if details:
        result["failures"] = [_problem(problem) for problem in found.problems]
        result["differing_rows"] = differences
        result["lacking"] = [
            {"reason": reason, **_place(record)}
            for reason, without in lacking.items()
            if len(without) < rows  # else the set has none at all
            for record in without
        ]
        result["truncated"] = truncated
    return result


def report(
    datasets: Iterable[Dataset],
    vocabulary: Any,
    lengths: Mapping[str, int] | None = None,
    *,
    splits: Sequence[str] | None = None,
    details: bool = False,
    label_prefix: str = LABEL_PREFIX,
    rationale_prefix: str = RATIONALE_PREFIX,
    encoder_bos: bool = False,
    selection: Selection | None = None,
) -> dict[str, Any]:
    """Returns statistics of data sets.

    Args:
      datasets: the data sets.
      vocabulary: measures lengths, in tokens with the prefix and EOS: ``bytes``, the path of a SentencePiece model, ``t5``
        or ``mt5`` (their public files), or anything with ``encode(text)`` and ``vocab_size``.
      lengths: planned ``inputs`` and ``targets`` lengths; None reports no truncation.
      splits: which splits; None: all that a set has, and where validation rows are cut from the training file also
        ``train+validation``, the whole file.
      details: also list every row with a problem (``failures``), every row that strict and improved mode read
        differently (``differing_rows``), the rows without a gold label, a rationale or a teacher's label if others have one
        (``lacking``), and those of which a sequence of either task is longer than planned (``truncated``).
      label_prefix, rationale_prefix: prefixes of the inputs.
      encoder_bos: whether BOS precedes the tokens of an input, and counts.
      selection: of which the subsample is counted (``used``); None: all rows are used.

    A split whose file is missing, or that has no row, is ``{"missing": message}``, and the others are reported, unless
    all are missing or ``splits`` names it.

    Returns:
      Ready for JSON: ``{"vocabulary_size", "lengths", "sets": {name: {split: found}}}``, where ``found`` has ``rows``,
      ``used`` (rows of the subsample), ``rejected``, ``replies``, ``parsed`` (rows with a teacher's answer), ``undecided``
      (rows with its rationale alone) and ``failed`` (rows with neither; a missing reply, too), which add up to ``rows``,
      and are 0 in a split without any teacher's label or reply, ``with_label``, ``with_rationale``, ``several_rationales``
      (rows with more than one), ``with_llm_label``, ``problems``, ``agreement``, ``differences``, ``repeats`` (of
      :meth:`distill.data.repeats.Repeats.of`), ``unknown`` (by kind of text: how many have a token that the vocabulary does
      not know, and how many of these have each unknown character), ``no_value`` (gold labels of equations that are not
      arithmetic; ``first_no_value`` is the first) and ``lengths`` (of inputs and targets of both tasks, and of the targets
      of ``FORM=single`` with the rationale first). Agreement is over all rows with a gold label, a row without a teacher's
      label counting as wrong; None without a teacher, and strict agreement without raw replies.

    Raises:
      SourceError: a file cannot be used, or all of a set are missing.
      FileNotFoundError: there is no such vocabulary.
    """
    ruler = measuring.ruler(vocabulary)
    options: dict[str, Any] = {
        "details": details,
        "label_prefix": label_prefix,
        "rationale_prefix": rationale_prefix,
        "encoder_bos": encoder_bos,
    }
    sets: dict[str, dict[str, Any]] = {}
    for dataset in datasets:
        parts = [(split, dataset, split) for split in (dataset.splits if splits is None else splits)]
        if splits is None and dataset.cuts_validation:
            parts.insert(0, ("train+validation", dataset.replace(validation_fraction=0.0), "train"))
        found = sets[dataset.name] = {}
        inputs = repeats.Repeats()
        for name, part, split in parts:
            try:
                mine = inputs if part is dataset else repeats.Repeats()  # train+validation has the rows of both
                sampled = selection if part is dataset else None
                found[name] = split_report(part, split, ruler, lengths, selection=sampled, inputs=mine, **options)
            except (MissingFileError, EmptySplitError) as error:
                if splits is not None:
                    raise
                found[name] = {"missing": str(error)}
                missing = error
        if all("missing" in each for each in found.values()):
            raise missing
        for name, part, split in parts:
            if "missing" not in found[name] and part is dataset:
                found[name]["repeats"] = inputs.of(split)  # now that the training rows are known, too
    size = _size(vocabulary)
    return {"vocabulary_size": size, "lengths": dict(lengths or {}), "encoder_bos": encoder_bos, "sets": sets}


def _size(vocabulary: Any) -> int:
    if vocabulary == "bytes":
        return 384  # ByT5's: 256 bytes, three special ids and 125 sentinels
    if not isinstance(vocabulary, str):
        return vocabulary.vocab_size
    try:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_file=vocabulary).get_piece_size()
    except OSError:  # no file, but a name
        from distill.tasks import vocabularies

        return vocabularies.load(vocabulary).vocab_size
