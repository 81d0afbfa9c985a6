"""The arguments of the functions and classes that gin files configure, read from source files; nothing is imported.

A misspelt argument is found before TensorFlow and JAX are imported, which takes seconds. What cannot be read from the
source, such as a base class of another package, is left to gin.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import distill
from distill.api.gin_files import close
from distill.api.statements import Scan
from distill.api.trusted import Imports
from distill.validation import suggested

_PACKAGE = "distill"
_KNOWN_DECORATORS = ("dataclass", "dataclasses.dataclass")


def problems(scan: Scan) -> Iterator[str]:
    """One line for each bound name that no file imports or no module defines, and for each argument that does not exist."""
    for use, argument in scan.arguments:
        symbol, *attributes = use.selector.split(".")
        if not use.imports.dynamic or symbol == "gin":
            continue
        binding = f"{use.selector}.{argument} (set in {use.place})"
        if symbol not in use.imports.modules:
            yield f"{binding}: no gin file imports {symbol!r}{suggested(_imported(use.imports, use.selector))}"
            continue
        module, first_part = use.imports.modules[symbol]
        if first_part or len(attributes) != 1 or not module.startswith(f"{_PACKAGE}."):
            continue
        name = attributes[0]
        if definition(module, name) is None:
            defined = _top_level(module)
            if defined is not None and name not in defined:
                known = sorted(one for one in defined if not one.startswith("_"))
                near = [f"{symbol}.{one}" for one in close(name, known)[:1]]
                yield f"{binding}: {module} defines no {name!r}{suggested(near)}"
            continue
        arguments = arguments_of(module, name)
        if arguments is not None and argument not in arguments:
            hint = suggested(close(argument, arguments)) or f"; it has {', '.join(arguments)}"
            yield f"{binding}: {use.selector} has no argument {argument!r}{hint}"


@functools.cache
def arguments_of(module: str, name: str) -> tuple[str, ...] | None:
    """The arguments of a function or class; None if its source does not tell, for example because it takes any.

    >>> arguments_of("distill.model.networks", "no such function") is None
    True
    """
    found = definition(module, name)
    if found is None:
        return None
    node, where = found
    if any(ast.unparse(one).partition("(")[0] not in _KNOWN_DECORATORS for one in node.decorator_list):
        return None
    return parameters(node, where)


def parameters(node: ast.FunctionDef | ast.ClassDef, module: str) -> tuple[str, ...] | None:
    """The arguments of a definition in order; None if its source does not tell."""
    return _of_class(node, module) if isinstance(node, ast.ClassDef) else _of_function(node)


def _of_class(node: ast.ClassDef, module: str) -> tuple[str, ...] | None:
    if node.keywords:
        return None
    inherited: list[str] = []
    for base in node.bases:
        arguments = arguments_of(module, base.id) if isinstance(base, ast.Name) else None
        if arguments is None:
            return None
        inherited += arguments
    made = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    if made is not None:
        arguments = _of_function(made)
        return None if arguments is None else arguments[1:]
    if not node.decorator_list:  # no dataclass
        return None
    fields = [
        one for one in node.body if isinstance(one, ast.AnnAssign) and "ClassVar" not in ast.unparse(one.annotation)
    ]
    return tuple(dict.fromkeys([*inherited, *(one.target.id for one in fields if isinstance(one.target, ast.Name))]))


def _of_function(node: ast.FunctionDef) -> tuple[str, ...] | None:
    arguments = node.args
    if arguments.kwarg is not None:
        return None
    return tuple(one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


def definition(module: str, name: str) -> tuple[ast.FunctionDef | ast.ClassDef, str] | None:
    """The definition of a function or class and its module, also where another module of the package defines it."""
    defined = _top_level(module)
    node = None if defined is None else defined.get(name)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node, module
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{_PACKAGE}.") and not node.level:
        original = next((one.name for one in node.names if (one.asname or one.name) == name), name)
        return definition(node.module, original)
    return None


def bound(module: str, name: str) -> ast.stmt | None:
    """The statement at a module's top level that binds a name; None if there is none, or no source file."""
    return (_top_level(module) or {}).get(name)


@functools.cache
def _top_level(module: str) -> dict[str, ast.stmt] | None:
    """Name → the statement that binds it, of a module's top level; None without a source file of the package."""
    base = Path(distill.__file__).parent.joinpath(*module.split(".")[1:])
    file = next((one for one in (base.with_suffix(".py"), base / "__init__.py") if one.is_file()), None)
    if file is None or module.partition(".")[0] != _PACKAGE:
        return None
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update({one.asname or one.name.partition(".")[0]: node for one in node.names})
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update({one.id: node for one in targets if isinstance(one, ast.Name)})
        elif not isinstance(node, ast.Expr | ast.Assert | ast.Delete):
            return None  # a name may be bound inside, as in try or if
    return found


def _imported(imports: Imports, selector: str) -> list[str]:
    """The imported modules that define what a selector names, and close names of modules, as selectors."""
    last = selector.rpartition(".")[2]
    modules = {symbol: module for symbol, (module, first) in imports.modules.items() if not first}
    exact = [f"{symbol}.{last}" for symbol, module in modules.items() if definition(module, last) is not None]
    symbol, dot, rest = selector.partition(".")
    return exact[:3] or [f"{one}{dot}{rest}" for one in close(symbol, modules)]
