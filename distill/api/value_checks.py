"""Values of a configuration compared with the source of the functions that take them; nothing is imported.

A mistyped value is found before TensorFlow and JAX are imported, which takes seconds. The rules are those of the
functions: the annotations of their arguments, and their calls of :func:`distill.validation.check`. What cannot be read from
the source, such as the annotation of another package's class, is checked when the configuration is parsed.
"""

import ast
import collections.abc
import functools
import typing
from collections.abc import Iterator
from typing import Any

from distill import validation
from distill.api import signatures, value_types
from distill.api.statements import Scan

_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "None": None}
_CONTAINERS: dict[str, Any] = {"tuple": tuple, "list": list, "dict": dict}
_ABSTRACT = ("Callable", "Collection", "Iterable", "Mapping", "Sequence")  # of collections.abc
_UNREADABLE = object()  # in place of a constant or type that the source alone does not give


def problems(scan: Scan) -> Iterator[str]:
    """One line for each value that does not have the type or is not among the choices of an argument that takes it."""
    named: set[str] = set()  # a macro may be used more than once
    for given in scan.given.values():
        value, place = given.value, given.use.place
        if given.macro is not None:
            if given.macro not in scan.values:
                continue
            value, place = scan.values[given.macro], scan.defined[given.macro][-1]
        symbol, *attributes = given.use.selector.split(".")
        imports = given.use.imports
        if not imports.dynamic or symbol not in imports.modules or len(attributes) != 1:
            continue
        module, first_part = imports.modules[symbol]
        found = None if first_part else signatures.definition(module, attributes[0])
        problem = None if found is None else _problem(*found, given.argument, value)
        if problem is not None and given.macro not in named:
            if given.macro is not None:
                named.add(given.macro)
            name = f"{symbol}.{attributes[0]}.{given.argument}"
            where = f"{given.macro} (set in {place}), as {name}" if given.macro else f"{name} (set in {place})"
            yield f"{where}: {problem}"


@functools.cache
def _rules(node: ast.FunctionDef | ast.ClassDef, module: str, argument: str) -> tuple[Any, tuple[Any, ...] | None]:
    """The type and the choices of an argument: a sweep checks each argument for all its runs."""
    annotation = _annotation(node, argument)
    hint = _UNREADABLE if annotation is None else _type(annotation, module)
    return hint, _choices(node, module, argument)


def _problem(node: ast.FunctionDef | ast.ClassDef, module: str, argument: str, value: Any) -> str | None:
    hint, choices = _rules(node, module, argument)
    if hint is not _UNREADABLE and (problem := value_types.mismatch(value, hint)):
        return problem
    if choices is None or not isinstance(value, str):
        return None
    try:
        validation.check(argument, value, choices)
    except ValueError as error:
        return str(error)
    return None


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
    """The type of an annotation, also by another name.

    It consists of plain types, ``None``, ``|``, ``Literal``, containers, functions and classes of this package that have no
    base class; of those a class without a definition stands for the class, because no literal is an instance of either.
    """
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
    container = _container(node.value if isinstance(node, ast.Subscript) else node, module)
    if container is not None:
        return _filled(container, node.slice, module) if isinstance(node, ast.Subscript) else container
    if (stands := _stand_in(node, module)) is not None:
        return stands
    named = _named(node, module)
    return _UNREADABLE if named is None else _type(*named)


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
    return container[tuple(Any if item is _UNREADABLE else item for item in items)]


def _stand_in(node: ast.expr, module: str) -> type | None:
    """A class with the name of the class of this package that an annotation names; None for all others."""
    found = None
    if isinstance(node, ast.Name):
        found = signatures.definition(module, node.id)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        imported = signatures.bound(module, node.value.id)
        if isinstance(imported, ast.ImportFrom) and imported.module and not imported.level:
            found = signatures.definition(f"{imported.module}.{_original(imported, node.value.id)}", node.attr)
    if found is None or not isinstance(found[0], ast.ClassDef) or found[0].bases or found[0].keywords:
        return None
    return _class_named(found[0].name, found[1])


@functools.cache
def _class_named(name: str, module: str) -> type:
    return type(name, (), {"__module__": module})


def _choices(node: ast.FunctionDef | ast.ClassDef, module: str, argument: str) -> tuple[Any, ...] | None:
    """The choices that a function, or a class's ``__post_init__``, checks an argument against."""
    for call in ast.walk(node):
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "validation.check" or len(call.args) != 3:
            continue
        if ast.unparse(call.args[1]) not in (argument, f"self.{argument}"):
            continue
        found = _constant(call.args[2], module)
        return found if isinstance(found, tuple) and _UNREADABLE not in found else None
    return None


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
    return (_choices(*found, argument) or ()) if found is not None else ()
