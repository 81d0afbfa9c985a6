"""From an empty folder, an installed wheel resolves every configuration that ships."""

import pathlib
import re
import tarfile
import zipfile

import pytest

from distill.api import configuration
from distill.experiments import sweep

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "gin").rglob("*") if path.is_file())
SIZES = ("embed_dim=64", "num_heads=4", "head_dim=16", "mlp_dim=128", "num_encoder_layers=2", "num_decoder_layers=2")
MODEL, TASK, RUN, CPU = (
    f"gin/{name}.gin" for name in ("models/t5_1_1_tiny", "tasks/svamp", "runs/distill", "hardware/cpu")
)
WANTED = {"MODEL_DIR": "'runs/x'", "VOCABULARY_PATH": "'bytes'", "DATA_DIR": "'data'", "FILES": "{'train': 'a.jsonl'}"}
FAMILIES = ("t5_1_1", "t5_1_0", "mt5", "umt5", "byt5")
DATA = "gin/runs/data.gin"  # configures no training, but `distill data`
COMMANDS_OWN = {"eval": ["SPLIT='test'"], "infer": [], "export": []}  # read behind a run's file


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def config(*files, bindings=()):
    """``distill config`` of files that make a run, with what else they want."""
    flags = ["config", *(f"--gin_file={file}" for file in files)]
    wanted = configuration.unset(tuple(WANTED), files, bindings)
    return flags + [f"--gin.{name}={WANTED[name]}" for name in wanted] + [f"--gin.{text}" for text in bindings]


def command(name):
    """The command that resolves one shipped gin file, completed by others where it is a part of a run."""
    folder, stem = pathlib.Path(name).parent.name, pathlib.Path(name).stem
    if folder == "models":
        sizes = [f"network.T5Config.{size}" for size in SIZES] if stem in FAMILIES else []
        return config(name, TASK, RUN, CPU, bindings=sizes)
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


def sweep_commands(name):
    """The commands that resolve each kind of run of a sweep."""
    kinds = {}
    for run in sweep.read(ROOT / name, "out").runs():
        kinds.setdefault(run.gin_files, run)
    for run in kinds.values():
        bindings = [binding.replace(" = ", "=", 1) for binding in run.bindings]
        yield config(*run.gin_files, bindings=bindings)


OURS = [name for name in SHIPPED if name.endswith(".gin") and not name.startswith("gin/t5x/")]
SWEEPS = [name for name in SHIPPED if name.endswith(".json")]


@pytest.fixture(scope="module")
def resolved(installed, tmp_path_factory):
    """name → the results of its commands, all run in one process in an empty folder."""
    commands = [(name, command(name)) for name in OURS]
    commands += [(name, arguments) for name in SWEEPS for arguments in sweep_commands(name)]
    done = installed.walk([arguments for _, arguments in commands], tmp_path_factory.mktemp("empty"))
    out = {}
    for (name, _), result in zip(commands, done, strict=True):
        out.setdefault(name, []).append(result)
    return out


@pytest.mark.parametrize("name", [*OURS, *SWEEPS])
def test_it_resolves(name, resolved):
    for result in resolved[name]:
        assert result["code"] == 0, result["err"]
        assert ("data_report.of_dataset:" if name == DATA else "train.train:") in result["out"]


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
