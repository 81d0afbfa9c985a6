# Two commands do all the set-up: `make demo` and `make test`. Everything lands in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test lint imports types docs floor newest clean

$(VENV)/.core: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

# Trains a small student with and without rationales, on the CPU, and draws what came out.
demo: $(VENV)/.core
	JAX_PLATFORMS=cpu $(BIN)/distill demo

# Lint, the direction of imports and types first: they are quick, and gate the rest.
test: $(VENV)/.test lint imports types
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# No module imports one of a layer above its own: [tool.importlinter] in pyproject.toml.
imports: $(VENV)/.test
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.test
	$(BIN)/mypy

$(VENV)/.docs: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

# Guides and API reference; warnings are errors.
docs: $(VENV)/.docs
	JAX_PLATFORMS=cpu $(BIN)/sphinx-build -W --keep-going -b html docs build/docs/html

# A part of the suite that needs no PyTorch, under the lowest and under the newest versions that pyproject.toml allows. Old
# releases warn of what newer ones of others deprecate; the pinned versions are tested with such warnings as errors.
SMOKE := tests/tasks tests/distill/data/test_packing.py tests/distill/data/test_batches.py \
	tests/distill/training/test_optimizers.py tests/distill/training/test_train.py tests/distill/sharding/test_dense.py

floor newest:
	$(PYTHON) -m venv .$@
	.$@/bin/pip install --quiet --disable-pip-version-check uv
	.$@/bin/uv pip compile --quiet --resolution $(if $(filter floor,$@),lowest-direct,highest) pyproject.toml -o .$@/versions.txt
	.$@/bin/uv pip install --quiet --python .$@/bin/python -r .$@/versions.txt "pytest>=8" "hypothesis>=6.100" pyyaml
	.$@/bin/uv pip install --quiet --python .$@/bin/python --no-deps -e .
	JAX_PLATFORMS=cpu .$@/bin/python -m pytest -q -W ignore::DeprecationWarning $(SMOKE)

clean:
	rm -rf $(VENV) .floor .newest build *.egg-info .mypy_cache .ruff_cache .hypothesis
