"""The facts of the demo's world: nouns by kind, the verbs that hold for each kind, and the questions about them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

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
    kind = pick(draw, kinds)
    verbs = pick(draw, WORLD.pairs[kind])
    either = [k for k in kinds if k != kind and (k in WORLD.can[verbs[0]]) != (k in WORLD.can[verbs[1]])]
    tempting = some(draw, either, 2)
    others = some(draw, [k for k in kinds if k != kind and k not in either], len(kinds))
    listed = [kind, *tempting, *others][: pick(draw, tuple(num_choices))]
    listed = some(draw, listed, len(listed))
    return Question(verbs, kind, tuple(pick(draw, nouns[k]) for k in listed), tuple(listed))


_Item = TypeVar("_Item")


def pick(draw: np.random.Generator, items: Sequence[_Item]) -> _Item:
    """Returns one of the items; all are equally likely."""
    return items[int(draw.integers(len(items)))]


def some(draw: np.random.Generator, items: list[str], number: int) -> list[str]:
    """Returns at most ``number`` different items, in random order."""
    return [items[int(i)] for i in draw.permutation(len(items))[:number]]


def vocabulary_texts() -> Iterator[str]:
    """Texts that hold every word of the world once or more, for training a vocabulary of whole words."""
    yield "[label] what can and ? [rationale] which are include . ___"
    for kind in WORLD.kinds:
        yield " ".join([kind, *WORLD.familiar[kind], *WORLD.new[kind]])
    yield " ".join(WORLD.can)
