"""Numbers and lists of things in messages: ``1 row``, ``2,000 rows``, ``train, validation and test``."""

from collections.abc import Sequence


def counted(number: int, noun: str = "run", plural: str | None = None) -> str:
    """The number and the noun in the form that agrees with it.

    Args:
      number: how many.
      noun: for one.
      plural: for other numbers; None: the noun with an s.

    >>> counted(1, "row"), counted(2000, "row"), counted(0, "batch", "batches")
    ('1 row', '2,000 rows', '0 batches')
    """
    return f"{number:,} {form(number, noun, plural)}"


def form(number: int, one: str, several: str | None = None) -> str:
    """The form of a word that agrees with a number.

    >>> form(1, "is", "are"), form(2, "input")
    ('is', 'inputs')
    """
    return one if number == 1 else several if several is not None else f"{one}s"


def share(number: int, total: int, noun: str, one: str, several: str) -> str:
    """How many of all things, and the verb that agrees.

    >>> share(1, 2000, "row", "has", "have"), share(2, 3, "row", "is", "are")
    ('1 of 2,000 rows has', '2 of 3 rows are')
    """
    return f"{number:,} of {counted(total, noun)} {form(number, one, several)}"


def with_more(names: Sequence[str]) -> str:
    """The first of several names, and how many others there are.

    >>> with_more(["a"]), with_more(["a", "b", "c"])
    ('a', 'a and 2 more')
    """
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def joined(words: Sequence[str]) -> str:
    """Words with commas, and "and" before the last one.

    >>> joined(["train"]), joined(["train", "test"]), joined(["a", "b", "c"])
    ('train', 'train and test', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), *words[-1:]]) if len(words) > 1 else "".join(words)
