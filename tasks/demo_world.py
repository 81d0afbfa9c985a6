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
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from distill.tasks.dataset import Dataset
from distill.tasks.records import Record, Report

NAME = "demo_world"
VOCABULARY_SIZE = 384
"""An upper bound of the number of words, special pieces included."""

FAMILIAR = {
    "birds": "robins sparrows eagles owls parrots ducks crows doves hens swans geese gulls",
    "fish": "trout salmon sharks tuna cod herring carp eels pike perch bass sardines",
    "insects": "ants bees wasps flies moths beetles crickets butterflies mosquitoes fleas termites ladybirds",
    "mammals": "dogs cats horses cows sheep pigs mice lions bears wolves foxes rabbits",
    "trees": "oaks pines elms birches maples willows palms firs poplars cedars beeches chestnuts",
    "flowers": "roses tulips daisies lilies violets poppies orchids daffodils sunflowers pansies carnations marigolds",
    "fruits": "apples pears plums cherries grapes bananas lemons oranges peaches melons strawberries mangoes",
    "tools": "hammers saws drills spades axes rakes pliers shovels chisels wrenches scissors screwdrivers",
    "vehicles": "cars buses trucks vans trains bicycles taxis trams tractors motorcycles lorries wagons",
    "boats": "ships canoes yachts ferries rafts kayaks barges rowboats sailboats tugs tankers submarines",
    "instruments": "guitars pianos violins drums flutes trumpets harps cellos organs clarinets banjos tubas",
    "clothes": "shirts coats hats socks gloves scarves skirts dresses jackets trousers sweaters shoes",
}
NEW = {
    "birds": "finches larks wrens herons storks falcons terns quails grouse kestrels plovers magpies",
    "fish": "anchovies halibut minnows barbels gobies rays mullets turbots bream tench guppies groupers",
    "insects": "hornets gnats locusts cicadas mayflies midges aphids earwigs weevils dragonflies mantises katydids",
    "mammals": "otters badgers lynxes moles weasels tapirs hares shrews stoats voles llamas bison",
    "trees": "alders larches hazels yews spruces sycamores hemlocks junipers cypresses lindens aspens acacias",
    "flowers": "asters dahlias petunias begonias peonies irises crocuses primroses hyacinths anemones lupins zinnias",
    "fruits": "figs dates quinces apricots papayas limes guavas currants damsons lychees nectarines tangerines",
    "tools": "awls mallets trowels adzes scythes sickles hoes gimlets crowbars spanners augers tongs",
    "vehicles": "scooters carts coaches jeeps rickshaws mopeds limousines hearses ambulances tandems bulldozers minibuses",
    "boats": "dinghies schooners punts gondolas trawlers catamarans sloops frigates ketches cutters clippers galleons",
    "instruments": "oboes lutes zithers fiddles bassoons mandolins ukuleles bugles accordions cornets piccolos xylophones",
    "clothes": "cloaks shawls vests tunics kilts ponchos capes bonnets mittens waistcoats cardigans blouses",
}
CAN = {
    "fly": "birds insects",
    "hatch": "birds fish insects",
    "nest": "birds mammals",
    "dive": "birds fish boats",
    "whistle": "birds instruments",
    "swim": "fish mammals",
    "bite": "fish mammals insects",
    "sting": "fish insects",
    "hum": "insects vehicles instruments",
    "run": "mammals vehicles",
    "squeak": "mammals tools",
    "stretch": "mammals clothes",
    "bloom": "trees flowers",
    "grow": "trees flowers",
    "sway": "trees boats",
    "burn": "trees clothes",
    "rot": "trees fruits",
    "wither": "flowers fruits",
    "smell": "flowers fruits",
    "fade": "flowers clothes",
    "roll": "fruits vehicles",
    "float": "fruits boats",
    "leak": "vehicles boats",
    "sail": "boats",
    "rust": "vehicles tools",
    "rattle": "vehicles instruments",
    "ring": "tools instruments",
    "break": "tools instruments",
    "cut": "tools",
    "tear": "clothes",
}


@dataclasses.dataclass(frozen=True)
class World:
    """The facts of the world.

    Attributes:
      familiar: kind → the nouns of the pretraining corpus.
      new: kind → the nouns that are only in questions; same kinds, same order.
      can: verb → the kinds for which it holds.
      pairs: kind → pairs of verbs that hold together for this kind only.
    """

    familiar: dict[str, tuple[str, ...]]
    new: dict[str, tuple[str, ...]]
    can: dict[str, tuple[str, ...]]
    pairs: dict[str, tuple[tuple[str, str], ...]] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if set(self.familiar) != set(self.new):
            raise ValueError(f"kinds of familiar and new nouns differ: {sorted(set(self.familiar) ^ set(self.new))}")
        nouns = [noun for group in (self.familiar, self.new) for row in group.values() for noun in row]
        words = [*nouns, *self.can, *self.familiar]
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise ValueError(f"every noun, verb and kind needs a distinct word; used twice: {', '.join(twice)}")
        for verb, kinds in self.can.items():
            if not kinds or set(kinds) - set(self.familiar):
                raise ValueError(f"{verb!r} must hold for known kinds; got {kinds!r}")
        pairs: dict[str, list[tuple[str, str]]] = {kind: [] for kind in self.familiar}
        for first in self.can:
            for second in self.can:
                common = set(self.can[first]) & set(self.can[second])
                if first != second and len(common) == 1:
                    pairs[common.pop()].append((first, second))
        empty = [kind for kind, found in pairs.items() if not found]
        if empty:
            raise ValueError(
                f"no two verbs hold together for {', '.join(empty)} only, so no question about it is possible"
            )
        object.__setattr__(self, "pairs", {kind: tuple(found) for kind, found in pairs.items()})

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds, in the order of the tables."""
        return tuple(self.familiar)

    def kind_of(self, noun: str) -> str:
        """The kind of a noun. Raises KeyError for an unknown noun."""
        for group in (self.familiar, self.new):
            for kind, nouns in group.items():
                if noun in nouns:
                    return kind
        raise KeyError(noun)


WORLD = World(
    {kind: tuple(nouns.split()) for kind, nouns in FAMILIAR.items()},
    {kind: tuple(nouns.split()) for kind, nouns in NEW.items()},
    {verb: tuple(kinds.split()) for verb, kinds in CAN.items()},
)


@dataclasses.dataclass(frozen=True)
class Question:
    """What can ``verbs`` do, of ``choices``? The one of kind ``kind``."""

    verbs: tuple[str, str]
    kind: str
    choices: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def text(self) -> str:
        """The question as the student reads it."""
        return f"what can {self.verbs[0]} and {self.verbs[1]} ? {' '.join(self.choices)}"

    @property
    def answer(self) -> str:
        """The right choice."""
        return self.choices[self.kinds.index(self.kind)]

    @property
    def reasons(self) -> str:
        """The teacher's rationale: the kind of each choice, and the kind that can do both."""
        nouns = dict(zip(self.kinds, self.choices))
        statements = [f"{kind} include {nouns[kind]} ." for kind in WORLD.kinds if kind in nouns]
        return " ".join([*statements, f"{self.kind} can {self.verbs[0]} and {self.verbs[1]} ."])

    @property
    def short_reasons(self) -> str:
        """A second teacher's rationale: only the kind of the answer, and that it can do both."""
        return f"{self.kind} include {self.answer} . {self.kind} can {self.verbs[0]} and {self.verbs[1]} ."

    @property
    def identity(self) -> tuple[frozenset[str], frozenset[str]]:
        """Equal for questions that differ only in their order of words."""
        return frozenset(self.verbs), frozenset(self.choices)


def ask(draw: np.random.Generator, nouns: dict[str, tuple[str, ...]], num_choices: Sequence[int] = (4, 5)) -> Question:
    """A question drawn at random: kinds are equally likely, and each choice is of another kind."""
    kinds = WORLD.kinds
    kind = _pick(draw, kinds)
    verbs = _pick(draw, WORLD.pairs[kind])
    either = [k for k in kinds if k != kind and (k in WORLD.can[verbs[0]]) != (k in WORLD.can[verbs[1]])]
    tempting = _some(draw, either, 2)
    others = _some(draw, [k for k in kinds if k != kind and k not in either], len(kinds))
    listed = [kind, *tempting, *others][: _pick(draw, tuple(num_choices))]
    listed = _some(draw, listed, len(listed))
    return Question(verbs, kind, tuple(_pick(draw, nouns[k]) for k in listed), tuple(listed))


_Item = TypeVar("_Item")


def _pick(draw: np.random.Generator, items: Sequence[_Item]) -> _Item:
    return items[int(draw.integers(len(items)))]


def _some(draw: np.random.Generator, items: list[str], number: int) -> list[str]:
    return [items[int(i)] for i in draw.permutation(len(items))[:number]]


class Questions:
    """A source of questions about the new nouns, all different, with the teacher's answers and reasons.

    Args:
      seed: seed of the questions.
      train_rows, validation_rows, test_rows: numbers of rows. Evaluation rows do not depend on ``train_rows``. A
        smaller training set is the beginning of a larger one.
      shuffled_rationales: gives every training row another row's reasons: true sentences about other questions.
      several_teachers: adds a second teacher, ``short``, to the first one, ``long``: fewer reasons for the same answer.
      votes: answers that a fallible teacher gives per training row; ``llm_label`` is the most frequent one. 0: one answer,
        which is right.
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
        for split, rows in sizes.items():
            if rows < 1:
                raise ValueError(f"{split}_rows must be at least 1; got {rows}")
        if shuffled_rationales and train_rows < 2:
            raise ValueError(f"shuffled rationales need at least 2 training rows; got {train_rows}")
        if votes < 0 or not 0 <= error_rate <= 1:
            raise ValueError(f"votes must be ≥ 0 and error_rate in [0, 1]; got {votes} and {error_rate}")
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
        draw = np.random.default_rng([self._seed, 6])
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
            yield self._voted(record, draw) if self._votes and split == "train" else record

    def _voted(self, record: Record, draw: np.random.Generator) -> Record:
        """The record with the answers of a fallible teacher."""
        others = [choice for choice in record.choices if choice != record.label]
        votes: dict[str, int] = {}
        for _ in range(self._votes):
            answer = _pick(draw, others) if draw.random() < self._error_rate else record.label or ""
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
        for name, rows in {"train_rows": train_rows, "validation_rows": validation_rows}.items():
            if rows < 1:
                raise ValueError(f"{name} must be at least 1; got {rows}")
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
                kind = _pick(draw, kinds)
                fact = [_pick(draw, nouns[kind]), "are", kind]
            else:
                verb = _pick(draw, tuple(WORLD.can))
                kind = _pick(draw, WORLD.can[verb])
                fact = [kind if form == 1 else _pick(draw, nouns[kind]), "can", verb]
            hole = _pick(draw, (0, 2))
            wanted, fact[hole] = fact[hole], "___"
            return " ".join(fact), wanted
        if form == 5:
            question = ask(draw, nouns, (3, 4, 5))
            return question.text, question.answer
        if form == 6:
            picked = {kind: _pick(draw, nouns[kind]) for kind in _some(draw, list(kinds), _pick(draw, (1, 2)))}
            facts = [f"{kind} include {picked[kind]} ." for kind in kinds if kind in picked]
            return f"which {' '.join(picked.values())} ?", " ".join(facts)
        if form == 3:
            right = [_pick(draw, kinds)]
            stem = f"what are {right[0]} ?"
        else:
            verb = _pick(draw, tuple(WORLD.can))
            right = list(WORLD.can[verb])
            stem = f"what can {verb} ?"
        answer = _pick(draw, nouns[_pick(draw, right)])
        wrong = _some(draw, [kind for kind in kinds if kind not in right], _pick(draw, (2, 3, 4)))
        listed = _some(draw, [answer, *(_pick(draw, nouns[kind]) for kind in wrong)], 5)
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


def vocabulary_texts() -> Iterator[str]:
    """Texts that hold every word of the world once or more, for training a vocabulary of whole words."""
    yield "[label] what can and ? [rationale] which are include . ___"
    for kind in WORLD.kinds:
        yield " ".join([kind, *WORLD.familiar[kind], *WORLD.new[kind]])
    yield " ".join(WORLD.can)
