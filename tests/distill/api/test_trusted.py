"""A configuration may name what trusted modules define, and nothing that they happen to import."""

import ast
import importlib.util
import os
import pathlib
import re
import sys

import optax
import pytest

import distill
from distill.api import configuration, statement_checks, statements, trusted
from distill.api.configuration import ConfigurationError
from distill.training import losses

FILES = ["gin/models/t5_1_1_tiny.gin", "gin/tasks/svamp.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
GIVEN = ["DATA_DIR = 'd'", "MODEL_DIR = 'm'", "VOCABULARY_PATH = 'bytes'"]
RAN = "ran_by_gin"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not pathlib.Path(RAN).exists(), "the configuration ran a command"


def refusal(text, dynamic=True, bindings=(), allowed=()):
    first = "from __gin__ import dynamic_registration\n" if dynamic else ""
    pathlib.Path("mine.gin").write_text(first + text)
    with pytest.raises(ConfigurationError) as caught:
        configuration.parse([*FILES, "mine.gin"], [*GIVEN, *bindings], allowed=allowed)
    return str(caught.value)


def test_a_shell_is_not_reached_through_the_attributes_of_a_module_that_may_not_be_named():
    message = refusal(
        "from distill.cli import main\n"
        "EVAL_BATCH_SIZE = @main.os.system()\n"
        f'main.os.system.command = "echo this file ran a command > {RAN}"\n'
    )
    assert message == (
        "mine.gin:2 imports distill.cli.main, which no configuration may name; allow it with --gin_module=distill.cli.main"
    )


@pytest.mark.parametrize(
    ("text", "name", "owner"),
    [
        ("from distill.training import losses\nEVAL_BATCH_SIZE = @losses.os.system()\n", "losses.os", "the module os"),
        ("from distill.training import losses as x\nEVAL_BATCH_SIZE = @x.os.system()\n", "x.os", "the module os"),
        ("import distill.training.losses\nEVAL_BATCH_SIZE = @distill.training.losses.os.system()\n",
         "distill.training.losses.os", "the module os"),
        ("import distill.training.losses as y\nEVAL_BATCH_SIZE = [1, {'a': (@y.os.system(), 2)}]\n",
         "y.os", "the module os"),
        ("from distill.training import losses\nEVAL_BATCH_SIZE = @a/b/losses.os.system\n", "losses.os", "the module os"),
        ("from distill.training import losses\nlosses.os.system.command = '1'\n", "losses.os", "the module os"),
        ("from distill.training import losses\na/losses.os.system:\n  command = '1'\n", "losses.os", "the module os"),
        ("from distill.training import losses\nEVAL_BATCH_SIZE = @losses.run()\n", "losses.run", "defined in posix"),
        ("from distill.training import losses\nEVAL_BATCH_SIZE = @losses.home()\n", "losses.home", "not trusted"),
        ("import jax.numpy\nEVAL_BATCH_SIZE = @jax.jit\n", "jax.jit", "defined in jax"),
        ("import jax.numpy\nEVAL_BATCH_SIZE = @jax.lax.add\n", "jax.lax", "the module jax.lax"),
        ("import optax\nEVAL_BATCH_SIZE = @optax.os.system\n", "optax.os", "the module os"),
        ("import seqio\nEMA_DECAY = @seqio.utils.os.system\n", "seqio.utils.os", "the module os"),
    ],
)  # fmt: skip
def test_what_trusted_modules_import_is_not_theirs(text, name, owner, monkeypatch):
    for module in (losses, optax):
        monkeypatch.setattr(module, "os", os, raising=False)
    monkeypatch.setattr(losses, "run", os.system, raising=False)
    monkeypatch.setattr(losses, "home", pathlib.Path.home, raising=False)
    message = refusal(text)
    assert f"names {name}, which is " in message
    assert owner in message
    assert message.startswith("mine.gin:")


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("from distill.training import train\nEVAL_BATCH_SIZE = @train.train.__globals__.get()\n", "which is private"),
        (
            "from distill import losses\nEVAL_BATCH_SIZE = @losses.TwoTaskLoss.__init__.__globals__\n",
            "which is private",
        ),
        (
            "import distill.training.train\nEVAL_BATCH_SIZE = @distill.api.configuration.parse()\n",
            "no configuration may name it",
        ),
        ("EVAL_BATCH_SIZE = @gin.config.exec()\n", "of gin, there are gin.macro"),
        ("import jax.numpy as jnp\nEVAL_BATCH_SIZE = @jnp.load()\n", "may only name types"),
        (
            "from distill.inference import export\nEVAL_BATCH_SIZE = @export.export()\n",
            "has distill.inference.export.export called",
        ),
        (
            "from distill.training import train\nEVAL_BATCH_SIZE = @x/train.train()\n",
            "has distill.training.train.train called",
        ),
        ("import subprocess as losses\nEVAL_BATCH_SIZE = @losses.run()\n", "imports subprocess, which is not trusted"),
        ("import __main__ as run\nEVAL_BATCH_SIZE = @run.main()\n", "imports __main__, which is not trusted"),
    ],
)
def test_other_ways_out(text, because):
    assert because in refusal(text)


def resolved(text, folder=pathlib.Path("more")):
    folder.mkdir(exist_ok=True)
    (folder / "included.gin").write_text(f"from __gin__ import dynamic_registration\n{text}")
    pathlib.Path("mine.gin").write_text(f"include '{folder}/included.gin'\n")
    configuration.parse([*FILES, "mine.gin"], [*GIVEN, "optimizers.adamw.weight_decay = 0.5"])
    return configuration.resolved()


@pytest.mark.parametrize(
    "statement",
    ["from distill import optimizers", "from distill import optimizers  # ours", "import distill.optimizers as optimizers",
     "from distill import optimizers as o"],
)  # fmt: skip
def test_public_modules_are_imported_by_their_full_names(statement):
    name = "o" if statement.endswith(" o") else "optimizers"
    text = resolved(f"{statement}\nOPTIMIZER = @{name}.adamw()\n{name}.adamw.b1 = 0.75\n")
    assert "from distill.training import optimizers" in text
    assert "from distill import" not in text
    assert ".adamw.b1 = 0.75" in text
    assert ".adamw.weight_decay = 0.5" in text
    pathlib.Path("again.gin").write_text(text)
    configuration.parse(["again.gin"], [])
    assert configuration.resolved() == text


def test_a_public_module_is_checked_under_its_full_name(monkeypatch):
    monkeypatch.setattr(losses, "os", os, raising=False)
    message = refusal("from distill import losses\nEVAL_BATCH_SIZE = @losses.os.system()\n")
    assert message.startswith("mine.gin:3 names losses.os, which is the module os")
    broken = refusal("from distill \\\n  import losses\n")
    assert broken == "mine.gin:2: an import must be on one line; write: from distill.training import losses"


@pytest.mark.parametrize(
    ("statement", "now", "written"),
    [
        ("from distill import train", "distill.training.train", "from distill.training import train"),
        ("import distill.train", "distill.training.train", "from distill.training import train"),
        ("from distill import evaluate", "distill.inference.evaluate", "from distill.inference import evaluate"),
        ("from distill import network as n", "distill.model.network", "from distill.model import network"),
        ("from distill import partitioning", "distill.sharding.partitioning", "from distill.sharding import partitioning"),
        ("from distill import checkpoints", "distill.checkpoints.manager",
         "from distill.checkpoints import manager as checkpoints"),
        ("from distill import compiler", "distill.sharding.xla_options",
         "from distill.sharding import xla_options as compiler"),
        ("from tasks import registration", "distill.tasks.registration", "from distill.tasks import registration"),
        ("from tasks import jsonl", "distill.tasks.jsonl", "from distill.tasks import jsonl"),
    ],
)  # fmt: skip
def test_a_module_of_earlier_versions_is_named_with_its_present_name(statement, now, written):
    message = refusal(f"{statement}\n")
    module = statement.split()[1] if statement.startswith("import") else ".".join(statement.split()[1:4:2])
    assert message == f"mine.gin:2 imports {module}, which is {now} now; write: {written}"


def test_a_name_longer_than_a_file_may_have_is_refused():
    """Found by fuzzing: looking for the module's file raised OSError."""
    assert "is not trusted" in refusal(f"import {'a' * 300}.b\n")
    configuration_error = refusal(f"from distill.tasks import {'a' * 300}\n")
    assert "a" * 300 in configuration_error


def test_every_renamed_module_is_there():
    for name in trusted._RENAMED.values():
        assert importlib.util.find_spec(name), name


def test_an_included_file_is_checked_and_read_once(monkeypatch):
    """Between the check and the parsing of a file nothing is read again, so nothing can change."""
    pathlib.Path("inner.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom distill.training import reporting\n"
        "EVAL_BATCH_SIZE = @reporting.json.loads\n"
    )
    assert refusal("include 'inner.gin'\n").startswith("inner.gin:3 names reporting.json")
    pathlib.Path("inner.gin").write_text("EVAL_BATCH_SIZE = 3\n")
    check = statement_checks.check

    def then_changed(*arguments):
        found = check(*arguments)
        pathlib.Path("inner.gin").write_text("EVAL_BATCH_SIZE = 4\n")
        return found

    monkeypatch.setattr(statement_checks, "check", then_changed)
    pathlib.Path("mine.gin").write_text("include 'inner.gin'\n")
    configuration.parse([*FILES, "mine.gin"], GIVEN)
    assert configuration.macro("EVAL_BATCH_SIZE") == 3


def test_bindings_of_the_command_line_are_checked_too(monkeypatch):
    monkeypatch.setattr(losses, "os", os, raising=False)
    message = refusal("", bindings=["losses.os.system.command = 'x'"])
    assert message.startswith("the command line names losses.os")


def test_nothing_untrusted_is_imported_while_checking(tmp_path, monkeypatch):
    pathlib.Path("evil_module.py").write_text(f"open({RAN!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    refusal("import evil_module\n")
    refusal("from evil_module import name\n")
    assert "evil_module" not in sys.modules


def test_what_the_user_allows_may_be_named():
    text = "from distill.training import reporting\nEVAL_BATCH_SIZE = @reporting.json.loads()\n"
    text += "reporting.json.loads.s = '8'\n"
    assert "--gin_module=json" in refusal(text)
    configuration.parse([*FILES, "mine.gin"], GIVEN, allowed=["json"])
    assert configuration.value("EVAL_BATCH_SIZE") == 8


def test_functions_of_trusted_libraries_may_be_named():
    pathlib.Path("mine.gin").write_text(
        "from __gin__ import dynamic_registration\nimport optax\nimport jax.numpy\n"
        "LEARNING_RATE = @optax.linear_schedule()\noptax.linear_schedule:\n"
        "  init_value = 1e-3\n  end_value = 0.0\n  transition_steps = 10\n"
        "optax.adamw.mu_dtype = @jax.numpy.bfloat16\n"
    )
    configuration.parse([*FILES, "mine.gin"], GIVEN)
    assert configuration.value("LEARNING_RATE")(5) == pytest.approx(5e-4)


def test_the_list_names_modules_that_exist():
    for name in trusted.NOT_NAMED:
        assert name.startswith("t5x") or importlib.util.find_spec(name), name
    for name in (*trusted.CALLED, *trusted.NOT_CALLED):
        package, _, attribute = name.rpartition(".")
        if not name.startswith(("t5x", "distill.t5x")):
            found = name == "optax" or hasattr(importlib.import_module(package), attribute)
            assert found or importlib.util.find_spec(name), name


def has_called(name):
    """Whether a configuration may have a function or class called."""
    module, _, qualified = name.rpartition(".")
    found = type(qualified, (), {"__module__": module})
    return trusted.configurable_problem(qualified, found, called=True) is None


WRITERS = {
    "atomic_files",
    "locking",
    "shutil",
    "subprocess",
    "tempfile",
    "urllib",
    "socket",
    "huggingface_hub",
    "openai",
}
WRITING = re.compile(
    r"\.(?:write_text|write_bytes|mkdir|makedirs|unlink|rmtree|rename|rmdir|touch|symlink\w*|savez\w*|TfdsDataSource)\("
    r"|\bos\.(?:replace|remove|removedirs|system|popen|exec\w+|spawn\w+)\(|(?<![.\w])(?:exec|eval)\("
    r"|\bopen\([^)]*[\"'](?:w|a|x|r\+)"
)


def test_nothing_that_writes_deletes_runs_or_downloads_is_called():
    """By the text of each module: what it imports, and the methods that it calls."""
    refused, may = set(), set()
    package = pathlib.Path(distill.__file__).parent
    for folder in (package, package / "tasks", package / "tools"):  # two are links in a checkout
        for path in folder.rglob("*.py"):
            text = path.read_text()
            module = ".".join(("distill", *path.relative_to(package).with_suffix("").parts)).removesuffix(".__init__")
            tree = ast.parse(text)
            imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
            words = {word for node in imports for one in node.names for word in one.name.split(".")}
            words |= {word for node in imports for word in (getattr(node, "module", "") or "").split(".")}
            writes = bool(words & WRITERS or WRITING.search(text))
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    (refused if writes else may).add(f"{module}.{node.name}")
    # Settings without a method that writes, in a module whose functions do.
    settings = {"distill.checkpoints.manager.CheckpointConfig"}
    assert {name for name in refused if has_called(name)} <= settings
    assert "distill.atomic_files.replace" in refused
    assert len(refused) > 200
    for name in ("training.optimizers.adamw", "tasks.cqa.tfds_dataset", "model.config.T5Config"):
        assert f"distill.{name}" in may
        assert has_called(f"distill.{name}")


@pytest.mark.parametrize(
    ("statement", "called", "name"),
    [
        ("from distill import atomic_files", "atomic_files.replace", "distill.atomic_files.replace"),
        ("from distill import array_files as a", "a.write", "distill.array_files.write"),
        ("from distill.checkpoints import conversion", "conversion.convert", "distill.checkpoints.conversion.convert"),
        ("from distill.data.cache import build", "build.build", "distill.data.cache.build.build"),
        ("from distill.tasks import tfds_source", "tfds_source.TfdsRecords", "distill.tasks.tfds_source.TfdsRecords"),
        ("import seqio", "seqio.JSONLogger", "seqio.loggers.JSONLogger"),
        ("import seqio", "seqio.TfdsDataSource", "seqio.dataset_providers.TfdsDataSource"),
    ],
)
def test_what_is_no_part_of_a_run_is_not_called(statement, called, name):
    message = refusal(f"{statement}\nEMA_DECAY = @{called}()\n")
    module = name.rpartition(".")[0]
    assert message == (
        f"mine.gin:3 has {name} called; a configuration may set its arguments, and have only the parts of a run called, "
        f"such as data sets, losses, optimizers and schedules; allow it with --gin_module={module}"
    )
    assert f"has {name} called" in refusal(f"{statement}\nEMA_DECAY = [%X]\nX = @scope/{called}\n")


def test_what_another_file_registers_is_not_called():
    """Without dynamic registration, gin finds what the names of other files have registered."""
    pathlib.Path("inner.gin").write_text("EMA_DECAY = @replace()\n")
    text = f"from distill import atomic_files\natomic_files.replace.path = {RAN!r}\ninclude 'inner.gin'\n"
    message = refusal(text)
    assert message.startswith("the configuration has distill.atomic_files.replace called; ")
    pathlib.Path("inner.gin").write_text("")
    configuration.parse([*FILES, "mine.gin"], GIVEN)  # its argument alone does no harm


def test_a_name_that_is_bound_again_keeps_its_meaning_in_the_lines_before():
    message = refusal(
        "from distill.training import reporting as a\nEMA_DECAY = @a.json.loads()\na.json.loads.s = '8'\n"
        "from distill.training import optimizers as a\n"
    )
    assert message.startswith("mine.gin:3 names a.json, which is the module json and not trusted")


def test_every_value_of_the_shipped_files_may_be_called():
    base = pathlib.Path(distill.__file__).parent / "gin"
    called = set()
    for path in (path for path in sorted(base.rglob("*.gin")) if path.relative_to(base).parts[0] != "t5x"):
        scan = statements.Scan()
        statements.scan_file(str(path), configuration.search_paths([]), scan, set())
        for use in dict.fromkeys(scan.uses):
            assert trusted.selector_problem(use.selector, use.imports, use.called) is None
            called |= {use.selector} if use.called else set()
    assert {
        "optimizers.adafactor",
        "checkpoints.CheckpointConfig",
        "evaluate.DecodeConfig",
        "cqa.tfds_dataset",
    } <= called
