# Two commands do all the set-up: `make demo` and `make test`. Everything lands in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test lint imports types clean

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

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .hypothesis
