"""T5X is not on the package registry: without it, nothing here is collected but the line that says so."""

import contextlib
import importlib.util
import pathlib
import warnings

import pytest

HERE = pathlib.Path(__file__).parent


def t5x_is_present() -> bool:
    """Whether there is a T5X to import (this folder, as a namespace package, is none)."""
    spec = importlib.util.find_spec("t5x")
    return spec is not None and spec.origin is not None


if not t5x_is_present():
    collect_ignore_glob = ["test_[!p]*.py", "test_pa*.py"]
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # T5X counts steps with Python integers and lets JAX promote, so its import and its calls want JAX's own defaults.
        import t5x.train  # noqa: F401


def pytest_collection_modifyitems(items):
    """T5X's deprecated calls are not this project's errors."""
    for item in items:
        if HERE in pathlib.Path(item.fspath).parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def lenient_numerics():
    """T5X promotes dtypes and ranks as JAX does by default."""
    import jax

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        yield
