"""Packages and package data, which need code: the folders gin/, tasks/ and tools/ are linked into distill/.

distill/gin, distill/tasks and distill/tools are symbolic links in a checkout, and real folders in an sdist and a wheel: the
distribution installs one top-level module. gin/ is no Python package (its __init__.py would shadow gin-config). All other
metadata is in pyproject.toml.
"""

import pathlib

from setuptools import find_packages, setup

DISTILL = pathlib.Path(__file__).parent / "distill"
GIN_FILES = sorted(
    {
        f"gin/{path.parent.relative_to(DISTILL / 'gin')}/*{path.suffix}"
        for path in (DISTILL / "gin").glob("**/*.*")
        if path.is_file()
    }
)
if not GIN_FILES:
    raise FileNotFoundError(f"{DISTILL / 'gin'} holds no file; expected a symbolic link to ../gin, or a folder")

setup(
    packages=find_packages(include=["distill", "distill.*"]),
    package_data={
        "distill": [
            *GIN_FILES,
            "py.typed",
            "teacher/prompts/*.yaml",
            "teacher/inspect/*.css",
            "teacher/inspect/*.js",
            "experiments/report/*.css",
            "experiments/report/*.js",
            "experiments/report/*.html",
        ]
    },
)
