"""Values of a configuration compared with the source of the functions that take them; nothing is imported.

A mistyped value is found before TensorFlow and JAX are imported, which takes seconds. The rules are those of the
functions: the annotations of their arguments, and their calls of :mod:`distill.validation`. What cannot be read from
the source, such as the annotation of another package's class, is checked when the configuration is parsed.
"""

import ast
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from distill import validation
from distill.api import signatures, value_types
from distill.api.statements import Given, Scan

_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "None": None}
_CHECKS = ("validation.check", "validation.check_range", "validation.check_items")
_UNREADABLE = object()  # in place of a constant or type that the source alone does not give


def problems(scan: Scan) -> Iterator[str]:
    """One line for each value without the type, outside the range or not among the choices of an argument that takes it.

    Ranges are those of functions that the run calls: an optimizer that another one replaces is not checked.
    """
    named: set[str] = set()  # a macro may be used more than once
    called = scan.called()
    relations = []
    for (scope, selector, _), given in scan.given.items():
        found = _value(scan, given)
        symbol, *attributes = given.use.selector.split(".")
        imports = given.use.imports
        if found is None or not imports.dynamic or symbol not in imports.modules or len(attributes) != 1:
            continue
        module, first_part = imports.modules[symbol]
        definition = None if first_part else signatures.definition(module, attributes[0])
        if definition is None or given.macro in named:
            continue
        others = _Others(scan, scope, selector, definition[0], selector in called)
        problem = _problem(*definition, given.argument, found[0], others)
        if problem is not None:
            if given.macro is not None:
                named.add(given.macro)
            name = f"{symbol}.{attributes[0]}.{given.argument}"
            where = f"{given.macro} (set in {found[1]}), as {name}" if given.macro else f"{name} (set in {found[1]})"
            if problem.other is None:
                yield f"{where}: {problem.text}"
            else:
                relations.append((problem.other, f"{where}: {problem.text}"))
    for other, line in relations:
        if other not in named:  # else the range follows from a mistake
            yield line


def _value(scan: Scan, given: Given) -> tuple[Any, str] | None:
    """A bound literal, or a macro's, and where it is set; None for a macro without a literal."""
    if given.macro is None:
        return given.value, given.use.place
    return (scan.values[given.macro], scan.defined[given.macro][-1]) if given.macro in scan.values else None


class _Problem(NamedTuple):
    """What is wrong with a value, and the macro or argument that bounds its range, if one does."""

    text: str
    other: str | None = None


class _Others(NamedTuple):
    """The values of a function's other arguments, and whether the run calls it."""

    scan: Scan
    scope: str
    selector: str
    node: ast.FunctionDef | ast.ClassDef
    called: bool

    def __call__(self, argument: str) -> tuple[str, Any]:
        """The name of an argument, which is its macro's if it has one, and its value."""
        given = self.scan.given.get((self.scope, self.selector, argument))
        found = None if given is None else _value(self.scan, given)
        if given is not None and found is not None:
            return given.macro or argument, found[0]
        bound = any(key[1:] == (self.selector, argument) for key in self.scan.refers)
        default = None if bound else _default(self.node, argument)
        return argument, default.value if isinstance(default, ast.Constant) else _UNREADABLE


def _problem(
    node: ast.FunctionDef | ast.ClassDef, module: str, argument: str, value: Any, others: _Others
) -> _Problem | None:
    annotation = _annotation(node, argument)
    hint = _UNREADABLE if annotation is None else _type(annotation, module)
    if hint is not _UNREADABLE and (problem := value_types.mismatch(value, hint)):
        return _Problem(problem)
    for call, where in _checks(node, module, argument):
        check = getattr(validation, call.func.attr)  # type: ignore[attr-defined]
        if check is validation.check:
            applies = isinstance(value, str)
        elif check is validation.check_items:
            applies = others.called and isinstance(value, dict)
        else:
            applies = others.called and value is not None  # whether None is meant, the annotation tells
        constants = [_constant(one, where) for one in call.args[2:]]
        bounds = {str(one.arg): others(ast.unparse(one.value).removeprefix("self.")) for one in call.keywords}
        unreadable = [*constants, *(one for _, one in bounds.values())]
        if not applies or _UNREADABLE in unreadable or any(map(_unreadable_inside, constants)):
            continue
        for name, (shown, _) in bounds.items():
            constants = [re.sub(rf"\b{name}\b", shown, one) for one in constants]
        try:
            check(argument, value, *constants, **dict(bounds.values()))
        except ValueError as error:
            return _Problem(str(error), next((name for name, _ in bounds.values()), None))
    return None


def _unreadable_inside(constant: Any) -> bool:
    return isinstance(constant, tuple) and _UNREADABLE in constant


def _checks(
    node: ast.FunctionDef | ast.ClassDef, module: str, argument: str, depth: int = 2
) -> Iterator[tuple[ast.Call, str]]:
    """The calls of :mod:`distill.validation` for an argument, and their modules.

    Args:
      node, module: a function, or a class with its ``__post_init__`` or ``__init__``.
      argument: its argument.
      depth: functions of the package that it passes the argument to are read, too, and those that these pass it to.
    """
    for call, loops in _calls(node, {}):
        if ast.unparse(call.func) in _CHECKS:
            if len(call.args) > 2 and _is_argument(call.args[1], argument, loops, module):
                yield call, module
            continue
        passed = [*enumerate(call.args), *((one.arg, one.value) for one in call.keywords)]
        places = [
            place for place, one in passed if any(_is_argument(part, argument, {}, module) for part in _parts(one))
        ]
        found = _callee(call.func, module) if places and depth else None
        names = None if found is None else signatures.parameters(*found)
        if found is None or names is None:
            continue
        for place in places:
            name = place if not isinstance(place, int) else names[place] if place < len(names) else None
            if name is not None and found[0] is not node:
                yield from _checks(*found, name, depth - 1)


def _calls(node: ast.AST, loops: Mapping[str, ast.expr]) -> Iterator[tuple[ast.Call, Mapping[str, ast.expr]]]:
    """The calls inside a statement, each with the variables of the loops around it and what they take their values from."""
    if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
        loops = {**loops, node.target.id: node.iter}
    if isinstance(node, ast.Call):
        yield node, loops
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, loops)


def _is_argument(node: ast.expr, argument: str, loops: Mapping[str, ast.expr], module: str) -> bool:
    """Whether an expression is an argument: ``name``, ``self.name``, or ``getattr(self, name)`` in a loop over names."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and isinstance(node.args[1], ast.Name):
        names = loops.get(node.args[1].id)
        values = None if names is None else _constant(names, module)
        return isinstance(values, tuple) and argument in values
    return ast.unparse(node) in (argument, f"self.{argument}")


def _parts(node: ast.expr) -> tuple[ast.expr, ...]:
    """Both values of ``a if … else b``; else the expression."""
    return (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,)


def _callee(node: ast.expr, module: str) -> tuple[ast.FunctionDef | ast.ClassDef, str] | None:
    """The function or class of the package that a call names."""
    if isinstance(node, ast.Name):
        return signatures.definition(module, node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        found = signatures.bound(module, node.value.id)
        if isinstance(found, ast.ImportFrom) and found.module and not found.level:
            return signatures.definition(f"{found.module}.{_original(found, node.value.id)}", node.attr)
    return None


def _default(node: ast.FunctionDef | ast.ClassDef, argument: str) -> ast.expr | None:
    """The default of an argument in the source; None without one."""
    if isinstance(node, ast.ClassDef):
        fields = (one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name))
        return next((one.value for one in fields if one.target.id == argument), None)  # type: ignore[union-attr]
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = dict(zip([one.arg for one in positional][::-1], node.args.defaults[::-1]))
    defaults |= {one.arg: value for one, value in zip(node.args.kwonlyargs, node.args.kw_defaults) if value is not None}
    return defaults.get(argument)


def _annotation(node: ast.FunctionDef | ast.ClassDef, argument: str) -> ast.expr | None:
    if isinstance(node, ast.FunctionDef):
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        return next((one.annotation for one in arguments if one.arg == argument), None)
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__":
            return _annotation(one, argument)
    fields = (one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name))
    return next((one.annotation for one in fields if one.target.id == argument), None)  # type: ignore[union-attr]


def _type(node: ast.expr, module: str) -> Any:
    """The type of an annotation that consists of plain types, ``None``, ``|`` and ``Literal``, also by another name."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        left, right = _type(node.left, module), _type(node.right, module)
        return _UNREADABLE if _UNREADABLE in (left, right) else typing.Union[left, right]  # noqa: UP007 - not constants
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.Name) and node.id in _TYPES:
        return _TYPES[node.id]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Literal", "typing.Literal"):
        values = _constant(node.slice, module)
        values = values if isinstance(values, tuple) else (values,)
        return _UNREADABLE if _UNREADABLE in values else typing.Literal[values]
    named = _named(node, module)
    return _UNREADABLE if named is None else _type(*named)


def _constant(node: ast.expr, module: str) -> Any:
    """The value of an expression of constants, tuples and names of constants; of a dict, its keys."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        out: list[Any] = []
        for item in node.elts:
            inner = _constant(item.value if isinstance(item, ast.Starred) else item, module)
            out += inner if isinstance(item, ast.Starred) and isinstance(inner, tuple) else [inner]
        return tuple(out)
    if isinstance(node, ast.Dict):
        return tuple(_UNREADABLE if key is None else _constant(key, module) for key in node.keys)
    named = _named(node, module)
    return _UNREADABLE if named is None else _constant(*named)


def _named(node: ast.expr, module: str) -> tuple[ast.expr, str] | None:
    """The expression that a name, or a name of an imported module of the package, is assigned, and its module."""
    if isinstance(node, ast.Name):
        found = signatures.bound(module, node.id)
        if isinstance(found, ast.ImportFrom) and found.module and not found.level:
            return _assigned(found.module, _original(found, node.id))
        return _assigned(module, node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        found = signatures.bound(module, node.value.id)
        if isinstance(found, ast.ImportFrom) and found.module and not found.level:
            return _assigned(f"{found.module}.{_original(found, node.value.id)}", node.attr)
    return None


def _original(statement: ast.ImportFrom, name: str) -> str:
    return next(one.name for one in statement.names if (one.asname or one.name) == name)


def _assigned(module: str, name: str) -> tuple[ast.expr, str] | None:
    found = signatures.bound(module, name)
    if isinstance(found, ast.Assign | ast.AnnAssign) and found.value is not None:
        return found.value, module
    return None


def of_argument(module: str, name: str, argument: str) -> tuple[Any, ...]:
    """The choices of an argument as this module reads them; empty if it reads none.

    >>> of_argument("distill.training.losses", "TwoTaskLoss", "normalizer")
    ('task_tokens', 'task_examples', 'all_tokens')
    """
    found = signatures.definition(module, name)
    for call, where in () if found is None else _checks(*found, argument):
        choices = _constant(call.args[2], where)
        if ast.unparse(call.func) == "validation.check" and isinstance(choices, tuple):
            return () if _UNREADABLE in choices else choices
    return ()
