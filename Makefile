# Two commands do all the set-up: `make demo` and `make test`. Everything lands in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Of tests: one more than the two cores of a small machine, since some tests wait for processes and servers. Each takes 4 GiB.
WORKERS ?= 3
# CI sets LOCKED=1: only files with the hashes of requirements-ci.txt are installed (Linux x86-64, Python 3.11).
LOCKED ?=

.PHONY: demo test lint imports types docs fuzz hashes floor newest clean

ifeq ($(LOCKED),)
$(VENV)/.core: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/.fuzz: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz,teacher]"
	touch $@

$(VENV)/.docs: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@
else
$(VENV)/.core: setup.py pyproject.toml requirements-ci.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-ci.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.test $(VENV)/.fuzz $(VENV)/.docs: $(VENV)/.core
	touch $@
endif

# Trains a small student with and without rationales, on the CPU, and draws what came out.
demo: $(VENV)/.core
	JAX_PLATFORMS=cpu $(BIN)/distill demo

# Lint, the direction of imports and types first: they are quick, and gate the rest. The slowest
# tests are printed at the end: a file among them belongs into LONGEST_FIRST of tests/tests_support.py, or can be made shorter.
# No worker is replaced: with --dist loadfile, pytest-xdist 3.8 never ends after that (pytest-dev/pytest-xdist#1378).
# Bytecode is kept, also where the environment forbids it: tests start hundreds of processes.
test: $(VENV)/.test lint imports types
	PYTHONDONTWRITEBYTECODE= JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --max-worker-restart=0 --durations=15

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# No module imports one of a layer above its own: [tool.importlinter] in pyproject.toml.
imports: $(VENV)/.test
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.test
	$(BIN)/mypy

# Guides and API reference; warnings are errors.
docs: $(VENV)/.docs
	JAX_PLATFORMS=cpu $(BIN)/sphinx-build -W --keep-going -b html docs build/docs/html

# Every reader of foreign data under atheris; corpora and findings in build/fuzz. fuzz/targets.py names the targets.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?=
fuzz: $(VENV)/.fuzz
	JAX_PLATFORMS=cpu $(BIN)/python -m fuzz --seconds=$(FUZZ_SECONDS) --workers=$(WORKERS) $(if $(FUZZ_TARGETS),--targets=$(FUZZ_TARGETS))

# Writes requirements-ci.txt again, after a change of pyproject.toml or constraints.txt; tests/test_ci_requirements.py compares them.
hashes:
	$(PYTHON) -m venv .hashes
	.hashes/bin/pip install --quiet --disable-pip-version-check uv
	.hashes/bin/uv pip compile --no-config --quiet --generate-hashes --no-annotate --no-header --constraint constraints.txt \
		--python-version 3.11.9 --python-platform x86_64-manylinux_2_35 --extra test --extra docs --extra fuzz \
		--extra precompile --extra release pyproject.toml -o requirements-ci.txt

# A part of the suite that needs no PyTorch, under the lowest and under the newest versions that pyproject.toml allows. Old
# releases warn of what newer ones of others deprecate; the pinned versions are tested with such warnings as errors.
SMOKE := tests/tasks tests/distill/data/test_packing.py tests/distill/data/test_batches.py \
	tests/distill/training/test_optimizers.py tests/distill/training/test_train.py tests/distill/training/test_loop.py \
	tests/distill/sharding/test_dense.py

floor newest:
	$(PYTHON) -m venv .$@
	.$@/bin/pip install --quiet --disable-pip-version-check uv
	.$@/bin/uv pip compile --quiet --resolution $(if $(filter floor,$@),lowest-direct,highest) pyproject.toml -o .$@/versions.txt
	.$@/bin/uv pip install --quiet --python .$@/bin/python -r .$@/versions.txt "pytest>=8" "hypothesis>=6.100" pyyaml
	.$@/bin/uv pip install --quiet --python .$@/bin/python --no-deps -e .
	JAX_PLATFORMS=cpu .$@/bin/python -m pytest -q -W ignore::DeprecationWarning $(SMOKE)

clean:
	rm -rf $(VENV) .floor .newest .hashes build *.egg-info .mypy_cache .ruff_cache .hypothesis
