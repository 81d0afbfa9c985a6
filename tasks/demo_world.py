"""A small synthetic world for the demo: questions that need two steps of reasoning, with generated rationales.

    what can hatch and dive ? oboes larks awls yews  →  larks
    birds include larks . trees include yews . tools include awls . instruments include oboes . birds can hatch and dive .

Twelve kinds of things, thirty verbs that hold for one to three kinds each, and twenty-four nouns per kind. The two verbs of
a question have one kind in common, and one of the nouns listed is of that kind; up to two others can do one of the two.

Half of each kind's nouns are *familiar*: :func:`pretraining` generates a corpus about them, on which a student learns to
read, choose and explain, as T5's students start from T5's pretraining. The other half are *new*: they are only in the
questions, so their kinds have to be learned from the answers, or from the teacher's reasons, which name the kinds. Nothing
here is read from a file; everything depends on the seed only.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from distill import validation
from distill.tasks.dataset import Dataset
from distill.tasks.demo_facts import VOCABULARY_SIZE, WORLD, Question, ask, pick, some, vocabulary_texts
from distill.tasks.records import Record, Report

__all__ = [
    "NAME",
    "VOCABULARY_SIZE",
    "WORLD",
    "Pretraining",
    "Question",
    "Questions",
    "ask",
    "dataset",
    "pretraining",
    "vocabulary_texts",
]

NAME = "demo_world"


class Questions:
    """A source of questions about the new nouns, all different, with the teacher's answers and reasons.

    Args:
      seed: seed of the questions.
      train_rows, validation_rows, test_rows: numbers of rows. Evaluation rows do not depend on ``train_rows``. A
        smaller training set is the beginning of a larger one.
      shuffled_rationales: gives every training row another row's reasons: true sentences about other questions.
      several_teachers: adds a second teacher, ``short``, to the first one, ``long``: fewer reasons for the same answer.
      votes: answers that a fallible teacher gives per row, in every split; ``llm_label`` is the most frequent one. 0: one
        answer, which is right.
      error_rate: the share of these answers that are another choice, drawn at random.

    Raises:
      ValueError: no rows, a negative number, or an ``error_rate`` that is no share.
    """

    splits: tuple[str, ...] = ("train", "validation", "test")

    def __init__(
        self,
        seed: int = 0,
        *,
        train_rows: int = 250,
        validation_rows: int = 200,
        test_rows: int = 1000,
        shuffled_rationales: bool = False,
        several_teachers: bool = False,
        votes: int = 0,
        error_rate: float = 0.2,
    ):
        sizes = {"train": train_rows, "validation": validation_rows, "test": test_rows}
        validation.check_range("train_rows", train_rows, "≥ 1")
        validation.check_range("validation_rows", validation_rows, "≥ 1")
        validation.check_range("test_rows", test_rows, "≥ 1")
        if shuffled_rationales and train_rows < 2:
            raise ValueError(f"shuffled rationales need at least 2 training rows; got {train_rows}")
        validation.check_range("votes", votes, "≥ 0")
        validation.check_range("error_rate", error_rate, "in [0, 1]")
        self._seed, self._sizes, self._shuffled = seed, sizes, shuffled_rationales
        self._several_teachers, self._votes, self._error_rate = several_teachers, votes, error_rate

    def questions(self, split: str) -> list[Question]:
        """The questions of a split. Raises ValueError for an unknown split."""
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}; the splits are {', '.join(self.splits)}")
        draw = np.random.default_rng([self._seed, 0])
        seen: set[tuple[frozenset[str], frozenset[str]]] = set()
        for name in ("test", "validation", "train"):
            found: list[Question] = []
            while len(found) < self._sizes[name]:
                question = ask(draw, WORLD.new)
                if question.identity not in seen:
                    seen.add(question.identity)
                    found.append(question)
            if name == split:
                break
        return found

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the split's records, and counts them in ``report``. Raises ValueError for an unknown split."""
        questions = self.questions(split)
        sources = np.arange(len(questions))
        if self._shuffled and split == "train":
            order = np.random.default_rng([self._seed, 1]).permutation(len(questions))
            sources[order] = np.roll(order, 1)
        # Each split has its own errors; those of training rows do not depend on the other splits.
        draw = np.random.default_rng([self._seed, 6, *([] if split == "train" else [self.splits.index(split)])])
        for index, question in enumerate(questions):
            if report is not None:
                report.rows += 1
            explained = questions[int(sources[index])]
            record = Record(
                id=f"{split}-{index}",
                input=question.text,
                label=question.answer,
                llm_label=question.answer,
                rationales=(explained.reasons,),
                choices=question.choices,
                provenance={"teacher": "program", "seed": self._seed},
            )
            if self._several_teachers:
                both = (explained.reasons, explained.short_reasons)
                record = dataclasses.replace(record, rationales=both, rationale_teachers=("long", "short"))
            yield self._voted(record, draw) if self._votes else record

    def _voted(self, record: Record, draw: np.random.Generator) -> Record:
        """The record with the answers of a fallible teacher."""
        others = [choice for choice in record.choices if choice != record.label]
        votes: dict[str, int] = {}
        for _ in range(self._votes):
            answer = pick(draw, others) if draw.random() < self._error_rate else record.label or ""
            votes[answer] = votes.get(answer, 0) + 1
        best = max(votes, key=votes.__getitem__)
        return dataclasses.replace(record, llm_label=best, label_votes=tuple(votes.items()))


class Pretraining:
    """A source of short texts about the familiar nouns, each an input and its answer.

    The forms: a word omitted from a fact; a choice by kind, by one verb or by two; the kind of one or two nouns.

    Args:
      seed: seed of the texts.
      train_rows, validation_rows: numbers of rows.
    """

    splits: tuple[str, ...] = ("train", "validation")
    shares = (0.10, 0.05, 0.05, 0.25, 0.15, 0.20, 0.20)

    def __init__(self, seed: int = 0, *, train_rows: int = 20000, validation_rows: int = 400):
        validation.check_range("train_rows", train_rows, "≥ 1")
        validation.check_range("validation_rows", validation_rows, "≥ 1")
        self._seed, self._sizes = seed, {"train": train_rows, "validation": validation_rows}

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the split's records, and counts them in ``report``. Raises ValueError for an unknown split."""
        if split not in self._sizes:
            raise ValueError(f"unknown split {split!r}; the splits are {', '.join(self.splits)}")
        draw = np.random.default_rng([self._seed, 2 + self.splits.index(split)])
        for index in range(self._sizes[split]):
            given, wanted = self._text(draw)
            if report is not None:
                report.rows += 1
            yield Record(id=f"{split}-{index}", input=given, label=wanted)

    def _text(self, draw: np.random.Generator) -> tuple[str, str]:
        form = int(draw.choice(len(self.shares), p=self.shares))
        nouns, kinds = WORLD.familiar, WORLD.kinds
        if form < 3:
            if form == 0:
                kind = pick(draw, kinds)
                fact = [pick(draw, nouns[kind]), "are", kind]
            else:
                verb = pick(draw, tuple(WORLD.can))
                kind = pick(draw, WORLD.can[verb])
                fact = [kind if form == 1 else pick(draw, nouns[kind]), "can", verb]
            hole = pick(draw, (0, 2))
            wanted, fact[hole] = fact[hole], "___"
            return " ".join(fact), wanted
        if form == 5:
            question = ask(draw, nouns, (3, 4, 5))
            return question.text, question.answer
        if form == 6:
            picked = {kind: pick(draw, nouns[kind]) for kind in some(draw, list(kinds), pick(draw, (1, 2)))}
            facts = [f"{kind} include {picked[kind]} ." for kind in kinds if kind in picked]
            return f"which {' '.join(picked.values())} ?", " ".join(facts)
        if form == 3:
            right = [pick(draw, kinds)]
            stem = f"what are {right[0]} ?"
        else:
            verb = pick(draw, tuple(WORLD.can))
            right = list(WORLD.can[verb])
            stem = f"what can {verb} ?"
        answer = pick(draw, nouns[pick(draw, right)])
        wrong = some(draw, [kind for kind in kinds if kind not in right], pick(draw, (2, 3, 4)))
        listed = some(draw, [answer, *(pick(draw, nouns[kind]) for kind in wrong)], 5)
        return f"{stem} {' '.join(listed)}", answer


def dataset(
    *,
    seed: int = 0,
    train_rows: int = 250,
    validation_rows: int = 200,
    test_rows: int = 1000,
    shuffled_rationales: bool = False,
    several_teachers: bool = False,
    votes: int = 0,
    error_rate: float = 0.2,
    name: str = NAME,
) -> Dataset:
    """The demo's questions as a data set; see :class:`Questions` for the arguments."""
    source = Questions(
        seed,
        train_rows=train_rows,
        validation_rows=validation_rows,
        test_rows=test_rows,
        shuffled_rationales=shuffled_rationales,
        several_teachers=several_teachers,
        votes=votes,
        error_rate=error_rate,
    )
    return Dataset(name, source, several_rationales=several_teachers)


def pretraining(
    *, seed: int = 0, train_rows: int = 20000, validation_rows: int = 400, name: str = f"{NAME}_pretraining"
) -> Dataset:
    """The corpus about the familiar nouns as a data set; see :class:`Pretraining` for the arguments."""
    return Dataset(name, Pretraining(seed, train_rows=train_rows, validation_rows=validation_rows))
