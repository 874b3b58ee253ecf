# Everything a developer or a first-time user runs. Needs Python 3.11 or later with venv, and make; nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
ONLY ?= *

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all lint format bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(RUNTIME) ## install, then search a small network for the built-in digits
	@echo "Searching a network for the digits data, as examples/digits.yaml says ..."
	$(BIN)/nas-engine search examples/digits.yaml

test: $(DEV) ## the tests that together take minutes
	$(PYTEST) -m "not slow"

test-all: $(DEV) ## all tests, also the slow ones
	$(PYTEST)

lint: $(DEV) ## style, format, types and import rules; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(DEV) ## mend style and format in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV) ## run the benchmarks (ONLY=name for one); figures go to results/benchmarks/
	@scripts=$$(grep -ls "^if __name__" benchmarks/$(ONLY).py) || { echo "No benchmark $(ONLY) in benchmarks/"; exit 1; }; \
	for script in $$scripts; do \
		echo "Running $$script ..."; $(BIN)/python -m benchmarks.$$(basename $$script .py) || exit 1; \
	done

clean: ## remove the environment and all caches; runs and measured results stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Clean: the next make installs again."

# A stamp is newer than pyproject.toml when what that file asks for is installed.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is missing or older than 3.11: install Python 3.11 or later, or give one: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Making the environment $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "This Python cannot make an environment: install its venv module (Debian: apt-get install python3-venv)"; exit 1; }

$(RUNTIME): pyproject.toml | $(BIN)/python
	@echo "Installing nas-engine and what it needs (some minutes and 7 GB at the first time) ..."
	@$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	@echo "Installing nas-engine with the tools for tests and lint (some minutes and 7 GB at the first time) ..."
	@$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $(RUNTIME) $@
