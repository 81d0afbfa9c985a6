"""Strict numerics for every test: eight host devices, no silent promotion of dtypes or ranks."""

import atexit
import gc
import importlib.util
import os
import pathlib
import shutil
import sys
import time
from importlib.metadata import version

import kept_programs
import tests_support
from distill.cli import compilation_cache

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["DISTILL_COMPILATION_CACHE"] = "off"  # commands that tests start write nothing into the user's cache folder
# Freed memory is kept, as by distill.allocator, from the start and in all commands that tests start: half of
# the time in the kernel was for pages that were returned and requested again.
os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 32))
os.environ.setdefault("MALLOC_TOP_PAD_", str(1 << 26))
# Checkpoints are written with one fsync a file, which a disk takes milliseconds for: temporary folders are in memory where
# it is ample. They are removed at the end, unless a test failed.
if "PYTEST_DEBUG_TEMPROOT" not in os.environ and tests_support.ample(pathlib.Path(tests_support.IN_MEMORY)):
    os.environ["PYTEST_DEBUG_TEMPROOT"] = tests_support.IN_MEMORY
# Compiling takes most of the time here, and what is compiled runs for a moment. Commands that tests start inherit this.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Many tests compile the same small programs. Workers of one session and the commands that they start share what is
# compiled; the first process takes it from the session before, and leaves it to the next.
if "DISTILL_TEST_COMPILATION_CACHE" not in os.environ:
    kept = kept_programs.PARENT / compilation_cache.folder_name(version("jax"))
    taken = kept_programs.take(kept)
    os.environ["DISTILL_TEST_COMPILATION_CACHE"] = str(taken)
    atexit.register(kept_programs.put_back, taken, kept, time.time())
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["DISTILL_TEST_COMPILATION_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"  # of GPUs; their path would be part of a program's name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {tests_support.xla_flags(8)}".strip()

import hypothesis
import jax
import jaxtyping
import pytest

import compiled_programs
from distill import triton_loading
from tests_support import QUESTIONS

gc.disable()  # until all is imported and collected: a tenth of that time went into passes over what was imported
triton_loading.load()  # PyTorch's CUDA builds load it at a moment when TensorFlow is loaded

# Annotations of jaxtyping (shapes and dtypes) are checked at every call, in each module that has them.
ROOT = pathlib.Path(__file__).resolve().parents[1]
ANNOTATED = sorted(
    ".".join((*prefix, *path.relative_to(ROOT).with_suffix("").parts))
    for prefix, folder in (((), "distill"), (("distill",), "tasks"))
    for path in (ROOT / folder).rglob("*.py")
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
)
CHECKED = importlib.util.find_spec("beartype") is not None
if CHECKED:
    jaxtyping.install_import_hook(ANNOTATED, "annotation_checker.checked")

# A busy machine, or the import of a library inside an example, makes no test fail.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

compiled_programs.keep()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Has xdist keep the order of ``tests_support.LONGEST_FIRST``; by default, it starts with the files with most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the tests of :data:`tests_support.LONGEST_FIRST` to the front; the order within a file stays."""
    places = {ROOT / name: place for place, name in enumerate(tests_support.LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """Keeps the garbage collector off what was imported: a pass over JAX, TensorFlow and PyTorch takes 0.15 s or more.

    TensorFlow's graphs are run as they are traced: optimizing them takes half of the time in which a small data set opens.
    """
    if "tensorflow" in sys.modules:
        optimizer = sys.modules["tensorflow"].config.optimizer
        optimizer.set_experimental_options({"disable_meta_optimizer": True})
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 10)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Drops compiled programs between two files before they take all memory mappings that Linux allows."""
    if nextitem is not None and nextitem.path != item.path:
        compiled_programs.drop_many()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Gives the memory of the temporary folders back; those of a session with a failure stay until the next session."""
    first = "PYTEST_XDIST_WORKER" not in os.environ
    if first and exitstatus == 0 and os.environ.get("PYTEST_DEBUG_TEMPROOT") == tests_support.IN_MEMORY:
        shutil.rmtree(session.config._tmp_path_factory.getbasetemp(), ignore_errors=True)


def pytest_report_header() -> str:
    """States whether annotations are checked."""
    if CHECKED:
        return f"jaxtyping: the annotations of {len(ANNOTATED)} modules are checked by beartype"
    return "jaxtyping: annotations are NOT checked, since beartype is not installed (pip install '.[test]')"


@pytest.fixture(scope="session")
def warm():
    """Starts commands that need not import what others imported already; see :mod:`warm_commands`."""
    import warm_commands

    with warm_commands.starter() as starter:
        yield starter


SHARED_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def paper_data() -> pathlib.Path:
    """The paper's SVAMP and CommonsenseQA files with PaLM's replies; skips where they are absent."""
    if not (SHARED_DATA / "svamp" / "svamp_train.json").exists():
        pytest.skip(f"the paper's data is not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def t5_vocabulary_path() -> str:
    """T5's SentencePiece model (with one extra symbol); skips where it is absent."""
    path = SHARED_DATA / "vocab" / "cc_all.32000.100extra.model"
    if not path.exists():
        pytest.skip(f"T5's SentencePiece model is not at {path}")
    return str(path)


@pytest.fixture(scope="session")
def gemma_vocabulary(tmp_path_factory):
    """A small vocabulary with Gemma's special pieces, and runs of spaces and line breaks as pieces, as Gemma's has."""
    from distill.tasks import vocabularies
    from distill.tools import vocabulary

    path = tmp_path_factory.mktemp("gemma") / "tokenizer.model"
    lines = [*QUESTIONS, "[label] [rationale] 3 plus 4 is 7. So the answer is 7"]
    path.write_bytes(vocabulary.train(lines, 500, special="gemma", symbols=["▁▁", "▁▁▁", "\n\n", "[label]"]))
    return vocabularies.load(str(path))
