"""Rules of a function's arguments, read from its source: types, defaults, and the calls of :mod:`distill.validation`.

Nothing is imported. What cannot be read is ``UNREADABLE``, such as the annotation of another package's class.
"""

import ast
import collections.abc
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from distill.api import signatures

Definition = ast.FunctionDef | ast.ClassDef

_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "None": None}
_CONTAINERS: dict[str, Any] = {"tuple": tuple, "list": list, "dict": dict}
_ABSTRACT = ("Callable", "Collection", "Iterable", "Mapping", "Sequence")  # of collections.abc
_CHECKS = ("validation.check", "validation.check_range", "validation.check_items")
UNREADABLE = object()  # in place of a constant or type that the source alone does not give


@functools.cache
def type_of(node: Definition, module: str, argument: str) -> Any:
    """The type of an argument; ``UNREADABLE`` without a readable annotation."""
    annotation = _annotation(node, argument)
    return UNREADABLE if annotation is None else _type(annotation, module)


@functools.cache
def checks(node: Definition, module: str, argument: str) -> tuple[tuple[ast.Call, str], ...]:
    """The calls of :mod:`distill.validation` for an argument, and their modules. A sweep asks for each of its runs."""
    return tuple(_checks(node, module, argument))


def _annotation(node: Definition, argument: str) -> ast.expr | None:
    if isinstance(node, ast.FunctionDef):
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        return next((one.annotation for one in arguments if one.arg == argument), None)
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__":
            return _annotation(one, argument)
    field = _field(node, argument)
    return None if field is None else field.annotation


def _field(node: ast.ClassDef, name: str) -> ast.AnnAssign | None:
    fields = (one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name))
    return next((one for one in fields if one.target.id == name), None)  # type: ignore[union-attr]


def _type(node: ast.expr, module: str) -> Any:
    """The type of an annotation, also by another name.

    It consists of plain types, ``None``, ``|``, ``Literal``, containers, functions and classes of this package that have no
    base class; of those a class without a definition stands for the class, because no literal is an instance of either.
    """
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        left, right = _type(node.left, module), _type(node.right, module)
        return UNREADABLE if UNREADABLE in (left, right) else typing.Union[left, right]  # noqa: UP007 - not constants
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.Name) and node.id in _TYPES:
        return _TYPES[node.id]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Literal", "typing.Literal"):
        values = constant(node.slice, module)
        values = values if isinstance(values, tuple) else (values,)
        return UNREADABLE if UNREADABLE in values else typing.Literal[values]
    container = _container(node.value if isinstance(node, ast.Subscript) else node, module)
    if container is not None:
        return _filled(container, node.slice, module) if isinstance(node, ast.Subscript) else container
    if (stands := _stand_in(node, module)) is not None:
        return stands
    named = _named(node, module)
    return UNREADABLE if named is None else _type(*named)


def _container(node: ast.expr, module: str) -> Any:
    """The container, or the type of functions, that a name means; None for other names."""
    if not isinstance(node, ast.Name):
        return None
    if node.id in _CONTAINERS:
        return _CONTAINERS[node.id]
    found = signatures.bound(module, node.id) if node.id in _ABSTRACT else None
    is_abstract = isinstance(found, ast.ImportFrom) and found.module in ("collections.abc", "typing")
    return getattr(collections.abc, node.id) if is_abstract else None


def _filled(container: Any, node: ast.expr, module: str) -> Any:
    """The container with the types of its items, any type where one cannot be read; a function without its arguments."""
    if container is collections.abc.Callable:
        return container
    nodes = node.elts if isinstance(node, ast.Tuple) else [node]
    items = [... if isinstance(one, ast.Constant) and one.value is ... else _type(one, module) for one in nodes]
    return container[tuple(Any if item is UNREADABLE else item for item in items)]


def _stand_in(node: ast.expr, module: str) -> type | None:
    """A class with the name of the class of this package that an annotation names; None for all others."""
    found = _definition(node, module)
    if found is None or not isinstance(found[0], ast.ClassDef) or found[0].bases or found[0].keywords:
        return None
    return _class_named(found[0].name, found[1])


@functools.cache
def _class_named(name: str, module: str) -> type:
    return type(name, (), {"__module__": module})


def _checks(node: Definition, module: str, argument: str, depth: int = 2) -> Iterator[tuple[ast.Call, str]]:
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
        found = _definition(call.func, module) if places and depth else None
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
        values = None if names is None else constant(names, module)
        return isinstance(values, tuple) and argument in values
    return ast.unparse(node) in (argument, f"self.{argument}")


def _parts(node: ast.expr) -> tuple[ast.expr, ...]:
    """Both values of ``a if … else b``; else the expression."""
    return (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,)


def _definition(node: ast.expr, module: str) -> tuple[Definition, str] | None:
    """The function or class of the package that an expression names."""
    place = _place(node, module)
    return None if place is None else signatures.definition(*place)


def default(node: Definition, argument: str) -> ast.expr | None:
    """The default of an argument in the source; None without one."""
    if isinstance(node, ast.ClassDef):
        field = _field(node, argument)
        return None if field is None else field.value
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = dict(zip([one.arg for one in positional][::-1], node.args.defaults[::-1]))
    defaults |= {one.arg: value for one, value in zip(node.args.kwonlyargs, node.args.kw_defaults) if value is not None}
    return defaults.get(argument)


def constant(node: ast.expr, module: str) -> Any:
    """The value of an expression of constants, tuples and names of constants; of a dict, its keys."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        out: list[Any] = []
        for item in node.elts:
            inner = constant(item.value if isinstance(item, ast.Starred) else item, module)
            out += inner if isinstance(item, ast.Starred) and isinstance(inner, tuple) else [inner]
        return tuple(out)
    if isinstance(node, ast.Dict):
        return tuple(UNREADABLE if key is None else constant(key, module) for key in node.keys)
    named = _named(node, module)
    return UNREADABLE if named is None else constant(*named)


def _named(node: ast.expr, module: str) -> tuple[ast.expr, str] | None:
    """The expression that a name, or a name of an imported module of the package, is assigned, and its module."""
    place = _place(node, module)
    found = None if place is None else signatures.bound(*place)
    if place is not None and isinstance(found, ast.Assign | ast.AnnAssign) and found.value is not None:
        return found.value, place[0]
    return None


def _place(node: ast.expr, module: str) -> tuple[str, str] | None:
    """The module and the name in it that ``name``, or ``module.name`` of an imported module, stands for."""
    if isinstance(node, ast.Name):
        return _imported(node.id, module) or (module, node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        whole = _imported(node.value.id, module)
        return None if whole is None else (".".join(whole), node.attr)
    return None


def _imported(name: str, module: str) -> tuple[str, str] | None:
    """Where a name of a module is imported from, and its name there; None for a name that is not imported so."""
    found = signatures.bound(module, name)
    if not isinstance(found, ast.ImportFrom) or not found.module or found.level:
        return None
    return found.module, next(one.name for one in found.names if (one.asname or one.name) == name)
