"""Every module ``distill/a/b.py`` has a test file of its name, ``tests/distill/a/test_b.py``."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
PACKAGES = (
    "api", "checkpoints", "cli", "data", "experiments", "inference", "model", "precompile", "sharding", "training",
)  # fmt: skip
# The tests of data/cache/ are in one file, since no module of it is used without the others.
ONE_FILE = {"distill/data/cache": "distill/data/test_cache.py"}

# Modules without a test file of their name: the file that tests them, and the text in it that reaches them. The list may
# only shrink: write the missing file and remove the entry, then lower LONGEST. Never add an entry for a new module.
LONGEST = 20
ELSEWHERE = {
    # The public functions are called as users call them: through `distill`.
    "distill/api/evaluation.py": ("distill/test_api.py", "distill.evaluate("),
    "distill/api/rows.py": ("distill/test_api.py", "distill.read("),
    "distill/api/run.py": ("distill/test_api.py", "from distill.api import configuration, run"),
    "distill/api/student.py": ("distill/test_api.py", "distill.load("),
    "distill/api/training.py": ("distill/test_api.py", "distill.train("),
    # Formats are tested as whole folders that another library reads or has written.
    # Commands are run as users run them.
    "distill/cli/completion.py": ("distill/cli/test_parser.py", '"completion"'),
    "distill/cli/evaluation.py": ("distill/inference/test_model_directory.py", 'main.main(["eval"'),
    "distill/cli/experiments.py": ("distill/experiments/sweep/test_execution.py", '"sweep"'),
    "distill/cli/launch.py": ("tools/test_launch.py", '"launch"'),
    "distill/cli/runs.py": ("distill/training/test_one_at_a_time.py", '"train"'),
    "distill/cli/serving.py": ("distill/inference/test_infer.py", '"infer"'),
    "distill/cli/tools.py": ("tools/test_convert.py", "convert.main("),
    "distill/cli/training.py": ("distill/training/test_one_at_a_time.py", '"train"'),
    # Tested with the functions that need them.
    "distill/inference/answering.py": ("distill/inference/test_infer.py", "infer("),
    "distill/inference/evaluate.py": ("distill/inference/test_infer.py", "import answers, evaluate"),
    "distill/inference/student.py": ("distill/inference/test_infer.py", "inference import student"),
    "distill/precompile/command.py": ("distill/precompile/test_estimates.py", "import command,"),
    "distill/precompile/steps.py": ("distill/precompile/test_estimates.py", "steps.compile_step("),
    "distill/training/joint_seeds.py": ("distill/training/test_callbacks.py", "joint_seeds"),
    "distill/training/loop.py": ("distill/training/test_train.py", "import loop as training_loop"),
}  # fmt: skip


def modules():
    """The modules of the packages above and of ``distill`` itself, as paths from the root."""
    paths = [path for package in PACKAGES for path in (ROOT / "distill" / package).rglob("*.py")]
    paths += (ROOT / "distill").glob("*.py")
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if not path.name.startswith("__"))


def mirror(module):
    """The test file of a module, as a path from ``tests/``."""
    path = pathlib.PurePosixPath(module)
    return ONE_FILE.get(str(path.parent), str(path.with_name(f"test_{path.name}")))


def test_the_packages_are_all_of_the_program():
    found = {path.parent.name for path in (ROOT / "distill").glob("*/__init__.py")}
    assert found - set(PACKAGES) == {"tasks", "tools", "teacher", "t5x"}  # their tests are ordered by behaviour
    assert len(modules()) > 80


@pytest.mark.parametrize("module", modules())
def test_a_module_has_its_test_file(module):
    if module in ELSEWHERE:
        assert not (TESTS / mirror(module)).exists(), f"tests/{mirror(module)} exists: remove {module} from ELSEWHERE"
        file, text = ELSEWHERE[module]
        assert text in (TESTS / file).read_text(encoding="utf-8"), f"tests/{file} no longer reaches {module}"
        return
    path = TESTS / mirror(module)
    assert path.exists(), f"{module} has no test file: write tests/{mirror(module)}"
    assert "def test_" in path.read_text(encoding="utf-8"), f"tests/{mirror(module)} has no test"


@pytest.mark.parametrize(
    "path", sorted(path for path in TESTS.glob("distill/**/test_*.py")), ids=lambda path: path.stem
)
def test_no_test_is_defined_twice(path):
    """Of two tests with the same name in a file, Python keeps only the second."""
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [line.split("(")[0] for line in lines if line.startswith("def test_")]
    assert len(names) == len(set(names)), f"{path.relative_to(ROOT)} defines a test twice"


def test_the_list_only_shrinks():
    assert len(ELSEWHERE) == LONGEST, (
        f"ELSEWHERE has {len(ELSEWHERE)} entries; set LONGEST to the number once it shrank"
    )
    assert not set(ELSEWHERE) - set(modules()), "ELSEWHERE names modules that do not exist"
