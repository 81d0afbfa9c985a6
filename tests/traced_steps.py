"""Training steps of equal settings are traced and lowered once in a process.

Every run makes its training step anew, and JAX traces every new function. That takes more than a third of the time of a
short training, and most tests of a training begin with the same settings. JAX finds what it traced of a function by the
function, the shapes of its arguments and the mesh: here runs with equal settings get the same function.
"""

import collections
import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any

from flax import linen as nn

KEPT = 32  # steps, those requested last

Make = Callable[..., Callable[..., Any]]


class Kept(collections.OrderedDict):
    """What was made, by what makes it what it is; those requested last."""

    def get_or_make(self, place: Any, make: Callable[[], Any], most: int) -> Any:
        """Returns what is kept at ``place``, or makes it; at most ``most`` are kept."""
        if place not in self:
            self[place] = make()
        self.move_to_end(place)
        if len(self) > most:
            self.popitem(last=False)
        return self[place]


def kept(make: Make) -> Make:
    """Returns ``make_train_step`` as a function that gives the step it made before for equal settings.

    The rules from logical to mesh axes are those in force; JAX's own caches know nothing of them. Settings that cannot be
    compared give a step of their own.
    """
    steps = Kept()

    def made_once(*settings: Any, **options: Any) -> Callable[..., Any]:
        place = identity((settings, options, nn.get_logical_axis_rules()))
        try:
            hash(place)
        except TypeError:
            return make(*settings, **options)
        return steps.get_or_make(place, lambda: make(*settings, **options), KEPT)

    return made_once


def identity(value: Any) -> Any:
    """What makes a setting what it is: of a function, which optimizers consist of, its code and all that it refers to."""
    if isinstance(value, types.FunctionType):
        cells = tuple(identity(cell.cell_contents) for cell in value.__closure__ or ())
        return value.__code__, id(value.__globals__), cells, identity((value.__defaults__, value.__kwdefaults__))
    if isinstance(value, functools.partial):
        return functools.partial, identity((value.func, value.args, value.keywords))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(identity(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, dict):
        return dict, tuple((name, identity(one)) for name, one in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(identity, value))
    return type(value), value
