"""requirements-ci.txt, from which CI installs, has a hash of every file and the versions of constraints.txt."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOCKED = (ROOT / "requirements-ci.txt").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("test", "docs", "fuzz", "precompile", "release")
REMEDY = "run `make hashes`"
# What constraints.txt does not pin: the tools of a release, and the libraries that the published torch requires on Linux.
ONLY_HERE = re.compile(
    r"build|pip|pyproject-hooks|triton|(nvidia|cuda)-[a-z0-9-]+"
    r"|cyclonedx-bom|arrow|chardet|fqdn|isoduration|json(pointer|schema.*)|lark|referencing|rfc3.*|rpds-py|uri-template|webcolors"
)
HERE = {"python_version": "3.11", "sys_platform": "linux", "platform_machine": "x86_64", "extra": ""}


def pins(text):
    """The versions of a requirements file, by name."""
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in found}


def test_every_line_is_a_pin_or_a_sha256():
    """No address of an index, no option, no requirement without a hash."""
    blocks = re.split(r"\n(?=\S)", LOCKED.strip())
    assert len(blocks) > 200
    for block in blocks:
        assert re.fullmatch(r"[\w.-]+==[^\s;]+(?: ; [^\n\\]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+", block), block[
            :80
        ]


def test_versions_are_those_of_the_constraints():
    locked, constrained = pins(LOCKED), pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    differ = {name: (str(locked[name]), str(constrained[name])) for name in locked.keys() & constrained.keys()
              if locked[name] != constrained[name]}  # fmt: skip
    assert not differ, f"{REMEDY}: locked and constrained versions differ: {differ}"
    alone = [name for name in locked.keys() - constrained.keys() if not ONLY_HERE.fullmatch(name)]
    assert not alone, f"pin {alone} in constraints.txt, and {REMEDY}"


def required():
    """All requirements of the package and of the extras that CI installs."""
    texts = [("dependencies", text) for text in PYPROJECT["dependencies"]]
    return texts + [(extra, text) for extra in EXTRAS for text in PYPROJECT["optional-dependencies"][extra]]


@pytest.mark.parametrize(("group", "text"), required(), ids=lambda value: value)
def test_every_requirement_of_the_project_is_locked(group, text):
    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate(HERE):
        return
    found = pins(LOCKED).get(canonicalize_name(requirement.name))
    assert found is not None, f"{group} requires {text}, which is not locked: {REMEDY}"
    assert requirement.specifier.contains(found, prereleases=True), (
        f"{group} requires {text}; locked is {found}: {REMEDY}"
    )


def test_make_and_the_workflows_install_from_it():
    workflows = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    assert "--require-hashes -r requirements-ci.txt" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert 'LOCKED: "1"' in workflows["ci.yml"]
    assert "--require-hashes -r requirements-ci.txt" in workflows["release.yml"]
    loose = [line.strip() for text in workflows.values() for line in text.splitlines()
             if "pip install" in line and "--require-hashes" not in line and "-c constraints.txt" not in line]  # fmt: skip
    assert not loose, f"installs without pins: {loose}"


def test_the_audit_of_a_release_collects_the_dependencies_and_leaves_out_the_project(tmp_path):
    """The workflow's own step, with this environment, up to the requests to the service."""
    pytest.importorskip("pip_audit")
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]["build"]["steps"]
    (audit,) = [step["run"] for step in steps if "pip_audit" in step.get("run", "")]
    here = {
        "/tmp/installed/bin/pip": f"{sys.executable} -m pip",
        "/tmp/installed.txt": str(tmp_path / "installed.txt"),
        "python -m pip_audit": f"{sys.executable} -m pip_audit --dry-run",
    }
    for there, path in here.items():
        assert there in audit
        audit = audit.replace(there, path)
    done = subprocess.run(["bash", "-e", "-c", audit], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = pins((tmp_path / "installed.txt").read_text())
    assert "jax" in listed and canonicalize_name(PYPROJECT["name"]) not in listed
    assert f"would have audited {len(listed)} packages" in done.stderr
