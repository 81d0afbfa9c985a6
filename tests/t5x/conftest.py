"""T5X is not on the package registry. Without it, only the test that reports its absence is collected."""

import contextlib
import importlib.util
import pathlib
import warnings

import pytest

HERE = pathlib.Path(__file__).parent


def t5x_is_present() -> bool:
    """Whether T5X can be imported (this folder, as a namespace package, does not count)."""
    spec = importlib.util.find_spec("t5x")
    return spec is not None and spec.origin is not None


if not t5x_is_present():
    collect_ignore_glob = ["test_[!p]*.py", "test_pa*.py"]
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # T5X counts steps with Python integers and relies on dtype promotion, so it needs JAX's own defaults.
        import t5x.train  # noqa: F401


def pytest_collection_modifyitems(items):
    """Deprecation warnings of T5X's calls are not errors of this project."""
    for item in items:
        if HERE in pathlib.Path(item.fspath).parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def lenient_numerics():
    """T5X relies on JAX's default promotion of dtypes and ranks."""
    import jax

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        yield
