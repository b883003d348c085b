# Targets work on a clean clone: the first one used makes .venv, later calls reuse it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
READY := .venv/.ready

.PHONY: demo demo-parent test check bench export-matrix docs clean

demo: $(READY)  ## parent against child on what every machine has, in minutes
	$(BIN)/pocketlm make recipes/demo.toml --out runs

demo-parent: $(READY)  ## train the shipped parent again, within the hour on two cores
	$(BIN)/pocketlm make recipes/demo-parent.toml --out runs
	$(BIN)/python recipes/ship.py runs/runs/demo-parent recipes/demo-parent

test: $(READY)  ## all tests, offline
	$(BIN)/python -m pytest

check: $(READY)  ## format, lint, types, tests: what a change must pass
	$(BIN)/ruff format --check src tests benchmarks recipes studies docs
	$(BIN)/ruff check src tests benchmarks recipes studies docs
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: $(READY)  ## every benchmark, short, as JSON lines
	@set -e; for script in $(filter-out %_matrix.py,$(wildcard benchmarks/[a-z]*.py)); do echo $$script; $(BIN)/python $$script --quick --json; done

export-matrix: $(READY)  ## every family x tokenizer x format in its own runtime, minutes
	$(BIN)/python benchmarks/export_matrix.py

docs: $(READY)  ## pages generated from the code
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist src/*.egg-info

# torch goes first and alone: resolved together with the rest, another version can win.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pocketlm needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e ".[gguf,eval,dev]"
	@touch $@
