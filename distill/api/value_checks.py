"""Values of a configuration compared with the source of the functions that take them; nothing is imported.

A mistyped value is found before TensorFlow and JAX are imported, which takes seconds. The rules are those of the
functions, see :mod:`distill.api.source_rules`. What cannot be read from the source is checked when the configuration is
parsed.
"""

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from distill import validation
from distill.api import signatures, source_rules, value_types
from distill.api.source_rules import UNREADABLE, Definition
from distill.api.statements import Scan, setting


def problems(scan: Scan) -> Iterator[str]:
    """One line for each value without the type, outside the range or not among the choices of an argument that takes it.

    Ranges are those of functions that the run calls: an optimizer that another one replaces is not checked.
    """
    named: set[str] = set()  # a macro may be used more than once
    called = scan.called()
    relations = []
    for (scope, selector, _), given in scan.given.items():
        found = scan.literal(given)
        symbol, *attributes = given.use.selector.split(".")
        imports = given.use.imports
        if found is None or not imports.dynamic or symbol not in imports.modules or len(attributes) != 1:
            continue
        module, first_part = imports.modules[symbol]
        definition = None if first_part else signatures.definition(module, attributes[0])
        if definition is None or given.macro in named:
            continue
        others = _Others(scan, scope, selector, definition[0], selector in called)
        name = f"{symbol}.{attributes[0]}.{given.argument}"
        example = setting(given.macro or name, found.place, scan.place)
        problem = _problem(*definition, given.argument, found.value, others, example)
        if problem is not None:
            if given.macro is not None:
                named.add(given.macro)
            where = (
                f"{given.macro} (set in {found.place}), as {name}" if given.macro else f"{name} (set in {found.place})"
            )
            if problem.other is None:
                yield f"{where}: {problem.text}"
            else:
                relations.append((problem.other, f"{where}: {problem.text}"))
    for other, line in relations:
        if other not in named:  # else the range follows from a mistake
            yield line


class _Problem(NamedTuple):
    """What is wrong with a value, and the macro or argument that bounds its range, if one does."""

    text: str
    other: str | None = None


class _Others(NamedTuple):
    """The values of a function's other arguments, and whether the run calls it."""

    scan: Scan
    scope: str
    selector: str
    node: Definition
    called: bool

    def __call__(self, argument: str) -> tuple[str, Any]:
        """The name of an argument, which is its macro's if it has one, and its value."""
        given = self.scan.given.get((self.scope, self.selector, argument))
        found = None if given is None else self.scan.literal(given)
        if given is not None and found is not None:
            return given.macro or argument, found.value
        bound = any(key[1:] == (self.selector, argument) for key in self.scan.refers)
        default = None if bound else source_rules.default(self.node, argument)
        return argument, default.value if isinstance(default, ast.Constant) else UNREADABLE


def _problem(
    node: Definition, module: str, argument: str, value: Any, others: _Others, example: Callable[[str], str] = str
) -> _Problem | None:
    hint = source_rules.type_of(node, module, argument)
    if hint is not UNREADABLE and (problem := value_types.mismatch(value, hint, example)):
        return _Problem(problem)
    for call, where in source_rules.checks(node, module, argument):
        check = getattr(validation, call.func.attr)  # type: ignore[attr-defined]
        if check is validation.check:
            applies = isinstance(value, str)
        elif check is validation.check_items:
            applies = others.called and isinstance(value, dict)
        else:
            applies = others.called and value is not None  # whether None is meant, the annotation tells
        constants = [source_rules.constant(one, where) for one in call.args[2:]]
        bounds = {str(one.arg): others(ast.unparse(one.value).removeprefix("self.")) for one in call.keywords}
        unreadable = [*constants, *(one for _, one in bounds.values())]
        if not applies or UNREADABLE in unreadable or any(map(_unreadable_inside, constants)):
            continue
        for name, (shown, _) in bounds.items():
            constants = [re.sub(rf"\b{name}\b", shown, one) for one in constants]
        try:
            check(argument, value, *constants, **dict(bounds.values()))
        except ValueError as error:
            return _Problem(str(error), next((name for name, _ in bounds.values()), None))
    return None


def _unreadable_inside(constant: Any) -> bool:
    return isinstance(constant, tuple) and UNREADABLE in constant


def of_argument(module: str, name: str, argument: str) -> tuple[Any, ...]:
    """The choices of an argument as this module reads them; empty if it reads none.

    >>> of_argument("distill.training.losses", "TwoTaskLoss", "normalizer")
    ('task_tokens', 'task_examples', 'all_tokens')
    """
    found = signatures.definition(module, name)
    for call, where in () if found is None else source_rules.checks(*found, argument):
        choices = source_rules.constant(call.args[2], where)
        if ast.unparse(call.func) == "validation.check" and isinstance(choices, tuple):
            return () if UNREADABLE in choices else choices
    return ()
