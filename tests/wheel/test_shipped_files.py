"""From an empty folder, an installed wheel resolves every configuration that ships."""

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

import distill
from distill.api import statement_checks
from distill.experiments import sweep
from distill.experiments.sweep import search
from wheel_sources import copy_sources, holders

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "gin").rglob("*") if path.is_file())
SIZES = ("embed_dim=64", "num_heads=4", "head_dim=16", "mlp_dim=128", "num_encoder_layers=2", "num_decoder_layers=2")
MODEL, TASK, RUN, CPU = (
    f"gin/{name}.gin" for name in ("models/t5_1_1_tiny", "tasks/svamp", "runs/distill", "hardware/cpu")
)
WANTED = {"MODEL_DIR": "'runs/x'", "VOCABULARY_PATH": "'bytes'", "DATA_DIR": "'data'", "FILES": "{'train': 'a.jsonl'}"}
FAMILIES = ("t5_1_1", "t5_1_0", "mt5", "umt5", "byt5")
STACK = ("num_layers=2", "embed_dim=64", "mlp_dim=128", "num_heads=4", "num_kv_heads=1", "head_dim=16")
STACK += ("query_pre_attn_scalar=16.0", "sliding_window=64")
SIZES_OF = {family: [f"network.T5Config.{size}" for size in SIZES] for family in FAMILIES}
SIZES_OF |= {family: [f"t5gemma_config.StackConfig.{size}" for size in STACK] for family in ("t5gemma", "t5gemma2")}
DATA = "gin/runs/data.gin"  # configures no training, but `distill data`
COMMANDS_OWN = {"eval": ["SPLIT='test'"], "infer": [], "export": []}  # read after a run's file


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def config(*files, bindings=()):
    """``distill config`` of files that make a run, with what else they want."""
    flags = ["config", *(f"--gin_file={file}" for file in files)]
    wanted = statement_checks.unset(tuple(WANTED), files, bindings)
    return flags + [f"--gin.{name}={WANTED[name]}" for name in wanted] + [f"--gin.{text}" for text in bindings]


def command(name):
    """The command that resolves one shipped gin file, completed by others where it is a part of a run."""
    folder, stem = pathlib.Path(name).parent.name, pathlib.Path(name).stem
    if folder == "models":
        return config(name, TASK, RUN, CPU, bindings=SIZES_OF.get(stem, []))
    if folder == "tasks":
        return config(MODEL, name, RUN, CPU)
    if folder == "hardware":
        return config(MODEL, TASK, RUN, name)
    if folder == "compiler":
        return config(MODEL, TASK, RUN, CPU, name)
    if folder == "recipes":
        return config(name, CPU)
    if name == DATA:
        return config(name, TASK)
    assert folder == "runs", f"{name}: say here how this folder's files are completed"
    if stem in COMMANDS_OWN:
        return config(MODEL, TASK, RUN, CPU, name, bindings=COMMANDS_OWN[stem])
    return config(MODEL, TASK, name, CPU, bindings=["FORM='paired'", "EVAL_FORM='label'"] if stem == "train" else [])


def sweep_command(name):
    """The command that resolves a sweep's first run; tests/distill/experiments/sweep/test_reading.py checks all kinds."""
    given = sweep.read(ROOT / name, "out")
    run = next(iter(given.runs() or search.probes(given)))
    own = [binding for binding in run.bindings if binding != "VOCABULARY_PATH = 'out/vocabulary.model'"]
    return config(*run.gin_files, bindings=[binding.replace(" = ", "=", 1) for binding in own])


OURS = [name for name in SHIPPED if name.endswith(".gin") and not name.startswith("gin/t5x/")]
SWEEPS = [name for name in SHIPPED if name.endswith((".json", ".yaml"))]


@pytest.fixture(scope="module")
def resolved(installed, tmp_path_factory):
    """name → the result of its command, all run in one process in an empty folder."""
    commands = {name: command(name) for name in OURS} | {name: sweep_command(name) for name in SWEEPS}
    done = installed.walk(list(commands.values()), tmp_path_factory.mktemp("empty"))
    return dict(zip(commands, done, strict=True))


@pytest.mark.parametrize("name", [*OURS, *SWEEPS])
def test_it_resolves(name, resolved):
    assert resolved[name]["code"] == 0, resolved[name]["err"]
    assert ("data_report.of_dataset:" if name == DATA else "train.train:") in resolved[name]["out"]


def test_every_file_is_there_and_is_no_link(installed):
    for name in SHIPPED:
        path = installed.package / name
        assert path.read_bytes() == (ROOT / name).read_bytes()
        assert not path.is_symlink() and not path.parent.is_symlink()
    there = {path.relative_to(installed.package).as_posix() for path in (installed.package / "gin").rglob("*")}
    assert {name for name in there if pathlib.Path(name).suffix} == set(SHIPPED)


def test_both_archives_hold_files_and_no_links(installed):
    with tarfile.open(installed.sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert not [name for name, member in members.items() if member.issym()]
    assert {f"distill/{name}" for name in SHIPPED} < set(members)
    with zipfile.ZipFile(installed.wheel) as archive:
        names = set(archive.namelist())
    assert {f"distill/{name}" for name in SHIPPED} < names
    assert not [name for name in names if name.startswith("gin/")], "a folder gin/ would shadow gin-config"


def test_what_t5x_reads_includes_files_that_ship():
    """They need T5X to be resolved (tests/t5x); their includes of ours can be looked up without."""
    for name in SHIPPED:
        if name.startswith("gin/t5x/"):
            for included in re.findall(r"^include '(gin/[^']+)'", text_of(name), re.MULTILINE):
                assert included in SHIPPED, f"{name} includes {included}"


def test_one_top_level_module_with_real_folders(installed):
    with zipfile.ZipFile(installed.wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"distill"}
    for name in ("__init__.py", "py.typed", "tasks/__init__.py", "tasks/svamp.py", "tools/__init__.py"):
        assert f"distill/{name}" in names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "distill").rglob("*.py")} <= set(names)
    for folder in ("tasks", "tools", "tools/launch", "gin"):
        assert (installed.package / folder).is_dir() and not (installed.package / folder).is_symlink()


def test_the_metadata(installed):
    (folder,) = installed.package.parent.glob("distill_step_by_step-*.dist-info")
    text = (folder / "METADATA").read_text(encoding="utf-8")
    assert f"\nVersion: {distill.__version__}\n" in text
    assert "\nRequires-Python: >=3.11\n" in text
    for extra in ("tpu", "cuda", "precompile", "t5x", "serve", "teacher", "test"):
        assert f"\nProvides-Extra: {extra}\n" in text
    assert "\nRequires-Dist: jax>=" in text
    assert "Distilling Step-by-Step in JAX" in text.partition("\n\n")[2]


PROGRAM = """
import pathlib, sys
import distill, distill.tasks.svamp, distill.tools.launch.job
package = pathlib.Path(distill.__file__).parent
for module in (distill.tasks.svamp, distill.tools.launch.job):
    assert pathlib.Path(module.__file__).is_relative_to(package), module.__file__
assert (package / "gin" / "runs" / "distill.gin").is_file()
assert "tasks" not in sys.modules and "tools" not in sys.modules
print(package)
"""


def test_a_plain_checkout_resolves_them(tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "distill")


def test_an_editable_install_resolves_them(tmp_path):
    """Built by setuptools as pip builds it, without a network: the wheel's own finder leads to the checkout."""
    source, folder = tmp_path / "source", tmp_path / "packages"
    copy_sources(source)
    folder.mkdir()
    build = f"from setuptools import build_meta; print(build_meta.build_editable({str(tmp_path)!r}))"
    built = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(tmp_path / built.stdout.splitlines()[-1]) as archive:
        archive.extractall(folder)
    # First on the path: another editable install beside the dependencies has a finder of the same name.
    paths = f"import site, sys; sys.path[:] = [{str(folder)!r}, *sys.path, *{holders()!r}]"
    words = [sys.executable, "-S", "-c", f"{paths}\nsite.addsitedir({str(folder)!r})\n{PROGRAM}"]
    outside = {"PATH": os.environ["PATH"]}
    done = subprocess.run(words, cwd=tmp_path, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(source / "distill")


def test_a_type_checker_resolves_them(tmp_path):
    """By files alone, as editors do: no import is executed. Dependencies are not analysed, which takes half a minute."""
    (tmp_path / "mine.py").write_text(
        "from distill.tasks import names\nfrom distill.tools.launch import job\nreveal_type(names)\nreveal_type(job.Job)\n"
        "from distill.tasks import nowhere\n"
    )
    checker = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--no-incremental", "--no-site-packages"]
    environment = {"PATH": os.environ["PATH"], "MYPYPATH": str(ROOT)}
    words = [*checker, "--python-version=3.11", "--config-file=", "--ignore-missing-imports", "mine.py"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "distill.tools.launch.job.Job" in done.stdout, done.stdout
    assert 'Module "distill.tasks" has no attribute "nowhere"' in done.stdout, done.stdout
    assert done.stdout.count("error:") == 1, done.stdout
