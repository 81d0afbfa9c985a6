"""The names that a configuration may use: only those that trusted modules define themselves.

A configuration has functions called, and a student's folder, which contains a configuration, may be from anyone. Names
are resolved as gin resolves them, attribute by attribute, and no step may leave the trusted modules:
``checkpoints.os.system`` is reached through a trusted module and is refused. Of the names that remain, only the parts of a
run are called (:data:`CALLED`); ``atomic_files.replace``, which would write a file, is not.
"""

import dataclasses
import importlib
import inspect
import os
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distill

TRUSTED_MODULES = ("__gin__", "distill", "seqio", "t5x", "optax", "jax.numpy")
# A configuration may not name trusted modules that run commands, import modules by name or read configurations.
NOT_NAMED = (
    "distill.api",
    "distill.cli",
    "distill.experiments",
    "distill.precompile",
    "distill.teacher",
    "distill.tools",
    "t5x.gin_utils",
    "t5x.scripts",
)
NOT_NAMED_FUNCTIONS = ("t5x.utils.import_module",)
# What a configuration may have called: modules, and functions and classes of others. Nothing of these writes, deletes, runs
# or downloads what a configuration names. Arguments of everything else may be set, for the commands that call it.
CALLED = (
    "distill.checkpoints.manager.CheckpointConfig",
    "distill.data.curriculum",
    "distill.inference.decoder.DecodeConfig",
    "distill.model",
    "distill.sharding.partitioning",
    "distill.t5x.model",
    "distill.t5x.steps",
    "distill.tasks",
    "distill.training.config",
    "distill.training.losses",
    "distill.training.optimizers",
    "distill.training.schedules",
    "distill.training.uncertainty",
    "jax.numpy",
    "jax._src.numpy",
    "optax",
    "seqio.feature_converters",
    "seqio.metrics",
    "seqio.preprocessors",
    "seqio.vocabularies",
    "t5x.adafactor",
    "t5x.decoding",
    "t5x.examples",
    "t5x.losses",
    "t5x.models",
    "t5x.optimizers",
    "t5x.utils.create_learning_rate_scheduler",
)
# TFDS downloads and runs the code of a data set that a name chooses.
NOT_CALLED = ("distill.tasks.tfds_source",)
TYPES_ONLY = ("jax.numpy",)  # jax.numpy.load unpickles
# Modules that were renamed; those that kept their last name are found by it.
_RENAMED = {
    "choices": "distill.validation",
    "compiler": "distill.sharding.xla_options",
    "data_report": "distill.data.report",
    "layouts": "distill.sharding.memory_layout",
    "lookup": "distill.sharding.embedding",
    "replicas": "distill.training.joint_seeds",
    "settings": "distill.tasks.fingerprint",
    "stopping": "distill.training.preemption",
    "t5_config": "distill.model.config",
    "train_step": "distill.training.step",
}
_LONGEST_NAME = 200  # of a module; file systems refuse longer ones
_GIN_NAMES = ("gin.macro", "gin.constant", "gin.singleton")


@dataclasses.dataclass(eq=False, frozen=True)
class Imports:
    """The imports of one gin file up to one of its lines, which the names of that line begin with.

    Attributes:
      dynamic: whether names are resolved through these imports; without, gin only knows registered names.
      modules: bound name → (module, whether only its first part is bound, as by ``import distill.training.train``).
    """

    dynamic: bool = False
    modules: dict[str, tuple[str, bool]] = dataclasses.field(default_factory=dict)

    def with_statement(self, statement: Any) -> "Imports":
        """These imports and one of gin's import statements, which may give a name another meaning."""
        if statement.module.startswith("__gin__"):
            return dataclasses.replace(self, dynamic=True)
        first_part = not statement.is_from and not statement.alias
        bound = {statement.bound_name(): (statement.module, first_part)}
        return dataclasses.replace(self, modules={**self.modules, **bound})


def real_import(statement: Any) -> Any:
    """The import of a public module of ``distill``, as ``from distill import losses``, by the module's full name.

    Returns:
      One of gin's import statements: ``statement`` itself where it names no public module.
    """
    package, _, name = statement.module.rpartition(".")
    target = getattr(distill, "_PUBLIC", {}).get(name, "") if package == "distill" else ""
    binds_module = statement.is_from or statement.alias
    if not target or ":" in target or not binds_module or _exists(statement.module):
        return statement
    bound = statement.bound_name()
    alias = None if target.rpartition(".")[2] == bound else bound
    return statement._replace(module=target, is_from=True, alias=alias)


def _exists(module: str) -> bool:
    """Whether the package holds a file for ``module``; nothing is imported."""
    path = Path(distill.__file__).parent.joinpath(*module.split(".")[1:])
    # os.path: of a name that is too long for a file system, there is no file.
    return os.path.isfile(f"{path}.py") or os.path.isfile(path / "__init__.py")


def moved(module: str) -> str | None:
    """The present name of a module of earlier versions, such as ``distill.train``; None if ``module`` is not one.

    >>> moved("distill.train"), moved("tasks.registration"), moved("distill.training.losses")
    ('distill.training.train', 'distill.tasks.registration', None)
    """
    top, _, name = module.rpartition(".")
    if module == "distill.checkpoints":
        return "distill.checkpoints.manager"
    if top.partition(".")[0] not in ("distill", "tasks") or (module.startswith("distill.") and _exists(module)):
        return None
    if name in _RENAMED:
        return _RENAMED[name]
    if len(name) > _LONGEST_NAME:
        return None
    package = Path(distill.__file__).parent
    files = [file for folder in package.iterdir() for file in (folder / f"{name}.py", *folder.glob(f"*/{name}.py"))]
    names = [
        ".".join(("distill", *file.relative_to(package).with_suffix("").parts)) for file in files if file.is_file()
    ]
    found = [name for name in names if not _within(name, NOT_NAMED)]
    return found[0] if len(found) == 1 else None


def _within(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def import_problem(module: str, allowed: Sequence[str] = ()) -> str | None:
    """Why a configuration may not import ``module``, or None if it may. Modules in ``allowed`` may always be imported."""
    if _within(module, allowed):
        return None
    new = moved(module)
    if new is not None:
        package, _, name = new.rpartition(".")
        alias = "" if name == module.rpartition(".")[2] else f" as {module.rpartition('.')[2]}"
        return f"imports {module}, which is {new} now; write: from {package} import {name}{alias}"
    if _within(module, NOT_NAMED):
        return f"imports {module}, which no configuration may name; allow it with --gin_module={module}"
    if not _within(module, TRUSTED_MODULES):
        return f"imports {module}, which is not trusted; allow it with --gin_module={module}"
    return None


def selector_problem(selector: str, imports: Imports, called: bool, allowed: Sequence[str] = ()) -> str | None:
    """Why a configuration may not name ``selector``, or None if it may or if gin will not find it either.

    Args:
      selector: dotted, without scopes: the text after ``@``, or before an argument's name in a binding.
      imports: of the file that contains it; every module among them has passed :func:`import_problem`.
      called: whether it is a value (``@…``), and not only has arguments bound.
      allowed: modules that are trusted, too.
    """
    if not imports.dynamic:
        return None
    symbol, *attributes = selector.split(".")
    if symbol == "gin":
        return None if selector in _GIN_NAMES else f"names {selector}; of gin, there are {', '.join(_GIN_NAMES)}"
    if symbol not in imports.modules:
        return None
    name, first_part = imports.modules[symbol]
    try:
        found: Any = importlib.import_module(name)
    except ImportError:
        return None
    on_the_way = name if first_part else ""
    if first_part:
        found = importlib.import_module(name.partition(".")[0])
    path = symbol
    for attribute in attributes:
        path = f"{path}.{attribute}"
        if attribute.startswith("_"):
            return f"names {path}, which is private"
        try:
            found = getattr(found, attribute)
        except AttributeError:
            return None
        problem = _object_problem(path, found, on_the_way, allowed)
        if problem:
            return problem
    return _call_problem(found, allowed) if called else None


def configurable_problem(selector: str, found: Any, called: bool, allowed: Sequence[str] = ()) -> str | None:
    """As :func:`selector_problem`, for the function or class that gin has found for a name that it imported.

    A file without dynamic registration may name what another file has registered, so gin itself is asked.

    Args:
      selector: gin's name of it.
      found: the function or class.
      called: whether it is a value, and not only has arguments bound.
      allowed: modules that are trusted, too.
    """
    return _object_problem(selector, found, "", allowed) or (_call_problem(found, allowed) if called else None)


def _call_problem(found: Any, allowed: Sequence[str]) -> str | None:
    """Why a configuration may not have ``found`` called, which it may name; None if it may."""
    if isinstance(found, types.ModuleType):
        return None  # gin refuses it
    owner = getattr(found, "__module__", None) or type(found).__module__
    name = f"{owner}.{getattr(found, '__qualname__', '')}"
    if _within(name, allowed) or (_within(name, CALLED) and not _within(name, NOT_CALLED)):
        return None
    return (
        f"has {name} called; a configuration may set its arguments, and have only the parts of a run called, such as data "
        f"sets, losses, optimizers and schedules; allow it with --gin_module={owner}"
    )


def _object_problem(path: str, found: Any, on_the_way: str, allowed: Sequence[str]) -> str | None:
    """Why a configuration may not name ``found``, at ``path``; None if it may."""
    if isinstance(found, types.ModuleType):
        owner = found.__name__
        if on_the_way == owner or on_the_way.startswith(f"{owner}."):
            return None  # jax, on the way to jax.numpy
        what = f"the module {owner}"
    else:
        owner = getattr(found, "__module__", None) or type(found).__module__
        what = f"defined in {owner}"
    # JAX's public objects may name the private module that they are written in.
    is_jax_numpy = _within(owner, ("jax._src.numpy",))
    if _within(owner, allowed):
        return None
    if not (is_jax_numpy or _within(owner, TRUSTED_MODULES)):
        return (
            f"names {path}, which is {what} and not trusted; a configuration may name what "
            f"{', '.join(TRUSTED_MODULES[1:])} define themselves; allow more with --gin_module={owner}"
        )
    name = f"{owner}.{getattr(found, '__qualname__', '')}"
    if _within(owner, NOT_NAMED) or name in NOT_NAMED_FUNCTIONS:
        return f"names {path}, which is {what}; no configuration may name it; allow it with --gin_module={owner}"
    types_only = is_jax_numpy or _within(owner, TYPES_ONLY)
    if types_only and not isinstance(found, types.ModuleType) and not inspect.isclass(found):
        return f"names {path}; of jax.numpy, a configuration may only name types"
    return None
