"""Statistics of a record set: balance, agreement, lengths, duplicates, failures, and effective λ."""

import collections
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from distill.data import repeats
from distill.tasks import metrics
from distill.tasks.lengths import Ruler
from distill.tasks.records import Record
from distill.teacher.assembly import selection

PERCENTILES = (50, 90, 95, 99, 100)
NORMALIZERS = ("task_tokens", "task_examples", "all_tokens")
FLAGS = (
    "agrees",
    "disagrees",
    "no teacher label",
    "no gold label",
    "no rationale",
    "given the answer",
    "failed reply",
    "undecided reply",
    "input cut",
    "target cut",
    "input twice",
    "rationale twice",
    "leak",
)
"""Flags of rows, used as filters."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The planned training settings.

    Attributes:
      inputs, targets: planned sequence lengths; None: no truncation.
      label_prefix, rationale_prefix: of the inputs.
      separator: text that represents EOS in inputs.
      lam: λ.
      label_rate, rationale_rate: of the mixture.
      batch_size: rows per batch.
      label_source: ``gold`` or ``teacher``; a set without gold labels uses the teacher's.
    """

    inputs: int | None = None
    targets: int | None = None
    label_prefix: str = "[label] "
    rationale_prefix: str = "[rationale] "
    separator: str | None = None
    lam: float = 1.0
    label_rate: float = 1.0
    rationale_rate: float = 1.0
    batch_size: int = 64
    label_source: str = "gold"

    def __post_init__(self) -> None:
        if self.label_source not in ("gold", "teacher"):
            raise ValueError(f"Plan.label_source must be 'gold' or 'teacher'; got {self.label_source!r}")
        if self.lam < 0 or min(self.label_rate, self.rationale_rate) < 0:
            raise ValueError(f"Plan.lam and the rates must be ≥ 0; got {self}")
        for name in ("inputs", "targets", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Plan.{name} must be ≥ 1; got {value}")


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths of one kind of sequence.

    Attributes:
      name: ``inputs``, ``label targets``, ``rationale targets``.
      values: one per sequence.
      limit: the planned length, or None.
    """

    name: str
    values: tuple[int, ...]
    limit: int | None = None

    @property
    def truncated(self) -> float:
        """Share longer than the limit."""
        if self.limit is None or not self.values:
            return 0.0
        return sum(value > self.limit for value in self.values) / len(self.values)

    @property
    def mean(self) -> float:
        """Mean, or 0 without sequences."""
        return sum(self.values) / len(self.values) if self.values else 0.0

    def percentiles(self) -> dict[int, int]:
        """For each percentage, the smallest value not less than that share of all values."""
        ordered = sorted(self.values)
        return {q: ordered[max(0, -(-len(ordered) * q // 100) - 1)] for q in PERCENTILES} if ordered else {}

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sequences": len(self.values),
            "mean": round(self.mean, 2),
            **{f"p{q}": value for q, value in self.percentiles().items()},
            "limit": self.limit,
            "truncated": self.truncated,
        }


@dataclasses.dataclass
class Statistics:
    """All statistics; the report explains them.

    Attributes:
      unit: the unit of lengths.
      rows, labelled, answered, explained, told: rows; with gold label; with teacher label; with rationale; with a
        rationale that was written for a given answer.
      rationales: number of rationales per row → rows.
      gold_balance, teacher_balance: label → rows; ``positions``: letter of the gold choice → rows.
      compared, agreed: rows with both labels; those where they agree. ``confusion``: (gold, teacher) → rows;
        ``disagreements``: the same, of those that do not.
      shares: vote shares of rows with several voters.
      label_source: the source of the measured labels: ``gold`` or ``teacher``.
      lengths: by name.
      duplicate_inputs: rows whose input another row has; ``contradictions``: of these, rows whose gold labels differ.
      repeated: the most frequent rationales that several rows share.
      leaks: kind → rationales.
      failed, undecided: replies with neither answer nor rationale, failed requests included; replies with a rationale and
        no answer. ``failures``: reason → number, of both.
      effective: normaliser → (paired, mixed) effective λ.
      flags: one list of flag numbers per row.
      row_lengths: (input, label, longest rationale) per row.
    """

    unit: str
    rows: int = 0
    labelled: int = 0
    answered: int = 0
    explained: int = 0
    told: int = 0
    rationales: dict[int, int] = dataclasses.field(default_factory=dict)
    gold_balance: dict[str, int] = dataclasses.field(default_factory=dict)
    teacher_balance: dict[str, int] = dataclasses.field(default_factory=dict)
    positions: dict[str, int] = dataclasses.field(default_factory=dict)
    compared: int = 0
    agreed: int = 0
    confusion: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    disagreements: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    shares: list[float] = dataclasses.field(default_factory=list)
    label_source: str = "gold"
    lengths: list[Lengths] = dataclasses.field(default_factory=list)
    duplicate_inputs: int = 0
    contradictions: int = 0
    repeated: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    leaks: dict[str, int] = dataclasses.field(default_factory=dict)
    failed: int = 0
    undecided: int = 0
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    effective: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    flags: list[list[int]] = dataclasses.field(default_factory=list)
    row_lengths: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The statistics without the rows."""
        skip = ("flags", "row_lengths", "lengths", "shares", "confusion", "disagreements", "rationales")
        value = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in skip}
        return value | {
            "rationales": {str(number): rows for number, rows in self.rationales.items()},
            "lengths": {each.name: each.summary() for each in self.lengths},
            "flagged": {flag: sum(n in row for row in self.flags) for n, flag in enumerate(FLAGS)},
        }


def compute(
    records: Sequence[Record],
    ruler: Ruler,
    plan: Plan,
    *,
    answer: metrics.AnswerKind = "text",
    provenance: Sequence[Mapping[str, Any]] = (),
    failed: Collection[str] = (),
    undecided: Collection[str] = (),
    failures: Mapping[str, int] | None = None,
    marker: str = "So the answer is",
) -> Statistics:
    """Computes the statistics.

    Args:
      records: the rows.
      ruler: measures lengths.
      plan: the planned training settings.
      answer: how labels are compared.
      provenance: of each row, as ``extract`` writes it, or empty.
      failed: the record id of every failed reply.
      undecided: the record id of every undecided reply.
      failures: reason → number, of both.
      marker: an answer marker that a rationale must not contain.
    """
    stats = Statistics(
        ruler.unit, rows=len(records), failed=len(failed), undecided=len(undecided), failures=dict(failures or {})
    )
    with_failed, with_undecided = {*failed}, {*undecided}
    inputs, labels, rationales = _measure(stats, records, ruler, plan)
    known = repeats.Repeats()
    input_keys = [known.add("rows", record) for record in records]
    counted = known.of("rows")
    stats.duplicate_inputs, stats.contradictions = counted["rows"], counted["contradicting"]
    rationale_keys = [[metrics.same_text_key(text) for text in record.rationales] for record in records]
    reasons = collections.Counter(key for keys in rationale_keys for key in {*keys})
    stats.repeated = _most_repeated(records, rationale_keys, reasons)
    for n, record in enumerate(records):
        origin = provenance[n] if n < len(provenance) else {}
        told = bool(origin.get("rationalised"))
        flags = {
            "no teacher label": record.llm_label is None,
            "no gold label": record.label is None,
            "no rationale": not record.rationales,
            "given the answer": told,
            "failed reply": record.id in with_failed,
            "undecided reply": record.id in with_undecided,
            "input cut": plan.inputs is not None and inputs[n] > plan.inputs,
            "target cut": plan.targets is not None and max([labels[n], *rationales[n]]) > plan.targets,
            "input twice": known.rows_with("rows", input_keys[n]) > 1,
            "rationale twice": any(reasons[key] > 1 for key in rationale_keys[n]),
        }
        flags |= _labels(stats, record, answer)
        kinds = [selection.leak(text, record.llm_label or record.label, marker=marker) for text in record.rationales]
        flags["leak"] = any(kinds)
        for kind in filter(None, kinds):
            stats.leaks[kind] = stats.leaks.get(kind, 0) + 1
        stats.told += told
        if origin.get("voters", 0) > 1:
            stats.shares.append(origin["votes"] / origin["voters"])
        stats.flags.append([number for number, flag in enumerate(FLAGS) if flags.get(flag)])
    for name in ("gold_balance", "teacher_balance", "positions", "confusion", "disagreements", "rationales", "leaks"):
        setattr(stats, name, _ordered(getattr(stats, name), by_key=name in ("positions", "rationales")))
    return stats


def _measure(
    stats: Statistics, records: Sequence[Record], ruler: Ruler, plan: Plan
) -> tuple[list[int], list[int], list[list[int]]]:
    """Lengths of inputs, labels and rationales of every row; also fills in the statistics of lengths."""
    prefix = max(plan.label_prefix, plan.rationale_prefix, key=lambda text: ruler.count([text])[0])
    inputs = ruler.lengths([prefix + record.input for record in records], plan.separator)
    gold = plan.label_source == "gold" and any(record.label is not None for record in records)
    stats.label_source = "gold" if gold else "teacher"
    targets = [(record.label if gold else record.llm_label) or "" for record in records]
    labels = ruler.lengths(targets)
    flat = iter(ruler.lengths([text for record in records for text in record.rationales]))
    rationales = [[next(flat) for _ in record.rationales] for record in records]
    stats.lengths = [
        Lengths("inputs", tuple(inputs), plan.inputs),
        Lengths("label targets", tuple(length for length in labels if length), plan.targets),
        Lengths("rationale targets", tuple(length for row in rationales for length in row), plan.targets),
    ]
    stats.row_lengths = [(i, t, max(r, default=0)) for i, t, r in zip(inputs, labels, rationales)]
    stats.effective = effective_lambdas(
        [record.weight for record in records], labels, [_mean(row) for row in rationales], plan
    )
    return inputs, labels, rationales


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _most_repeated(
    records: Sequence[Record], keys: Sequence[Sequence[str]], reasons: Mapping[str, int]
) -> list[tuple[str, int]]:
    """The rationales that most rows have, each with their number; ``keys``: of the rationales of every row."""
    texts: dict[str, str] = {}
    for record, of_row in zip(records, keys, strict=True):
        for text, key in zip(record.rationales, of_row, strict=True):
            texts.setdefault(key, text)
    shared = [(texts[key], number) for key, number in reasons.items() if number > 1]
    return sorted(shared, key=lambda pair: -pair[1])[:20]


def _labels(stats: Statistics, record: Record, answer: metrics.AnswerKind) -> dict[str, bool]:
    """Counts a row's labels; returns whether they agree and disagree."""

    def count(into: dict[Any, int], key: Any) -> None:
        into[key] = into.get(key, 0) + 1

    stats.labelled += record.label is not None
    stats.answered += record.llm_label is not None
    stats.explained += bool(record.rationales)
    count(stats.rationales, len(record.rationales))
    if record.label is not None:
        count(stats.gold_balance, record.label)
        named = metrics.match_choice(record.label, record.choices) if record.choices else None
        if named is not None:
            count(stats.positions, chr(ord("a") + record.choices.index(named)))
    if record.llm_label is not None:
        count(stats.teacher_balance, record.llm_label)
    if record.label is None or record.llm_label is None:
        return {}
    agrees = record.label == record.llm_label or metrics.same_answer(
        answer, record.label, record.llm_label, record.choices
    )
    stats.compared += 1
    stats.agreed += agrees
    count(stats.confusion, (record.label, record.llm_label))
    if not agrees:
        count(stats.disagreements, (record.label, record.llm_label))
    return {"agrees": agrees, "disagrees": not agrees}


def _ordered(counts: dict[Any, int], by_key: bool) -> dict[Any, int]:
    order: Callable[[Any], Any] = (lambda pair: pair[0]) if by_key else (lambda pair: -pair[1])
    return dict(sorted(counts.items(), key=order))


def effective_lambdas(
    weights: Sequence[float], labels: Sequence[float], rationales: Sequence[float], plan: Plan
) -> dict[str, tuple[float, float]]:
    """The effective weight of the rationale loss relative to the label loss, by normaliser.

    It is Σ of the rationale tokens' weights over Σ of the label tokens' weights, as training logs it. Where each task
    is divided by its own tokens or examples, that is λ in every batch that has both tasks; a batch of B rows lacks a
    task of which a share p of the rows have a target with probability (1 - p)^B. Divided by all tokens, it is λ times
    the tokens of rationales over the tokens of labels.

    Args:
      weights: row weights.
      labels: label target lengths, 0 where there is none.
      rationales: mean rationale target lengths, 0 where there is none.
      plan: λ, rates, batch size and the length at which targets are cut.

    Returns:
      normaliser → (both tasks of a row in the same batch, tasks mixed at their rates); NaN without labels.
    """
    cut = float("inf") if plan.targets is None else float(plan.targets)
    rows = len(weights)
    label_tokens = sum(w * min(length, cut) for w, length in zip(weights, labels))
    rationale_tokens = sum(w * min(length, cut) for w, length in zip(weights, rationales))
    has_label = sum(w > 0 and length > 0 for w, length in zip(weights, labels))
    has_rationale = sum(w > 0 and length > 0 for w, length in zip(weights, rationales))
    if not (has_label and label_tokens):
        return {name: (float("nan"), float("nan")) for name in NORMALIZERS}

    def share_of_batches(share: float) -> float:
        return 1.0 - (1.0 - share) ** plan.batch_size

    paired = plan.lam * share_of_batches(has_rationale / rows) / share_of_batches(has_label / rows)
    total = plan.label_rate + plan.rationale_rate
    mixed = float("nan")
    if total > 0 and plan.label_rate > 0:
        share = plan.rationale_rate / total if has_rationale else 0.0
        mixed = plan.lam * share_of_batches(share) / share_of_batches(plan.label_rate / total)
    pooled_paired = plan.lam * rationale_tokens / label_tokens
    pooled_mixed = float("nan")
    if plan.label_rate > 0:
        means = (rationale_tokens / has_rationale if has_rationale else 0.0) / (label_tokens / has_label)
        pooled_mixed = plan.lam * means * plan.rationale_rate / plan.label_rate
    return {
        "task_tokens": (paired, mixed),
        "task_examples": (paired, mixed),
        "all_tokens": (pooled_paired, pooled_mixed),
    }
