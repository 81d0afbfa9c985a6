"""The documentation builds with warnings as errors: the guides, and the API reference from the docstrings."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ABSENT = [name for name in ("sphinx", "myst_parser", "furo") if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(ABSENT), reason=f"{', '.join(ABSENT)} not installed: pip install -e '.[docs]'")
def test_the_documentation_builds_without_a_warning(tmp_path):
    # A copy, because the API pages are written beside the guides.
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("api"))
    (tmp_path / "distill").symlink_to(ROOT / "distill")
    # `make docs` has furo's theme, which adds no check of the pages: it builds the whole tree of pages anew for each page,
    # half of the time of a build. Most of the rest of the garbage collector's passes goes over modules that stay.
    program = "import gc, sys, distill, sphinx.cmd.build as build; gc.freeze(); gc.set_threshold(100_000, 50, 50); "
    program += "sys.exit(build.main(sys.argv[1:]))"
    options = ["-W", "--keep-going", "-q", "-b", "html", "-D", "html_theme=basic"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *options, "docs", "html"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, f"the documentation does not build:\n{ended.stdout}{ended.stderr}"
    html = tmp_path / "html"
    for guide in (ROOT / "docs").glob("*.md"):
        assert (html / guide.with_suffix(".html").name).exists(), f"docs/index.rst does not list {guide.name}"
    # Names from the modules, from the two linked folders, and from a plug-in whose own library may be absent.
    for page, name in {
        "distill.training": "distill.training.losses.task_token_weights",
        "distill.tasks": "distill.tasks.records.Record",
        "distill.tools.launch": "distill.tools.launch.plan.Plan",
        "distill.t5x": "distill.t5x.trainer.TwoTaskTrainer",
    }.items():
        assert f'id="{name}"' in (html / "api" / f"{page}.html").read_text(encoding="utf-8"), name


def test_every_package_has_a_docstring_for_its_page():
    folders = [path for name in ("distill", "tasks", "tools") for path in (ROOT / name).rglob("__init__.py")]
    assert len(folders) > 15
    for path in folders:
        assert path.read_text(encoding="utf-8").startswith('"""'), f"{path.relative_to(ROOT)} has no docstring"
