"""Packaging: the core installs from the package registry alone; T5X, tests and serving are extras."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

CORE = [
    "absl-py>=2.1",
    "array_record>=0.8",
    "clu>=0.0.12",
    "etils[epath]>=1.9",
    "filelock>=3.30",
    "flax>=0.12.0",
    "gin-config>=0.5.0",
    "jax>=0.7.0",
    "jaxtyping>=0.3",
    "matplotlib>=3.8",
    "msgpack>=1.0",
    "numpy>=1.26",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.11.20",
    "rich>=13",
    "safetensors>=0.4",
    "scipy>=1.11",
    "huggingface_hub>=0.30",
    "sentencepiece>=0.2",
    "shtab>=1.7",
    "seqio>=0.0.19",
    "tensorboard>=2.16",
    "tensorflow>=2.16",
    "tensorflow-datasets>=4.9",
    "tensorflow-text>=2.16",
    "tensorstore>=0.1.60",
    "typeguard>=4.4",
    "rouge_score>=0.1.2",
    "sacrebleu>=2.4",
]

EXTRAS = {
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    "precompile": ["libtpu>=0.0.20"],  # the compiler for TPUs; no TPU is needed
    # T5X and airio come from requirements-t5x.txt, with --no-deps: pip refuses a pinned commit of anything that they ask
    # for by the head of its repository (docs/t5x.md). jestimator's release breaks T5X's import; its repository's does not.
    # A direct reference keeps this package from being uploaded to PyPI: take it out first.
    "t5x": [
        "cached_property>=1.5",
        "chex>=0.1.8",
        "fiddle>=0.3",
        "grain>=0.2.12",
        "jestimator @ git+https://github.com/google-research/jestimator@326824a477feef6d92e6f44175000907a72899ca",
    ],
    "serve": ["ctranslate2>=4.5", "torch>=2.4", "transformers>=5"],
    "teacher": ["openai[aiohttp]>=3.57", "pyyaml>=6"],
    "test": [
        "aiohttp>=3.9",
        "beartype>=0.18",  # checks the annotations of jaxtyping: tests/conftest.py
        "ctranslate2>=4.5",
        "hypothesis>=6.100",
        "mypy>=1.13",
        "openai[aiohttp]>=3.57",
        "pytest-xdist>=3.6",
        "pyyaml>=6",
        "pytest>=8",
        "ruff>=0.8",
        "torch>=2.4",
        "transformers>=5",
    ],
}

# distill/gin, distill/tasks and distill/tools are symbolic links to the top-level folders in a checkout, and real folders
# in an sdist and a wheel: the distribution installs one top-level module. gin/ is no Python package (its __init__.py would
# shadow gin-config).
GIN_FILES = sorted(
    {
        f"gin/{path.parent.relative_to(HERE / 'distill' / 'gin')}/*{path.suffix}"
        for path in (HERE / "distill" / "gin").glob("**/*.*")
        if path.is_file()
    }
)
if not GIN_FILES:
    raise FileNotFoundError(f"{HERE / 'distill' / 'gin'} holds no file; is it a symbolic link to {HERE / 'gin'}?")

VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "distill" / "__init__.py").read_text("utf-8"), re.MULTILINE)[1]

setup(
    name="distill-step-by-step",
    version=VERSION,
    description="Distilling step-by-step in JAX: small T5 students from the answers and reasoning of a large teacher",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["distill", "distill.*"]),
    package_data={
        "distill": [*GIN_FILES, "py.typed", "teacher/prompts/*.yaml", "teacher/inspect/*.css", "teacher/inspect/*.js"]
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["distill=distill.cli.main:main"]},
)
