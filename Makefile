# make demo | test | check | bench | setup. Nothing but Python 3.11+, make and a C library set is needed beforehand.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXTRAS ?= dev

.PHONY: demo test check bench setup lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $(STAMP)

demo: $(STAMP)          ## a simulated shop, from its log to decisions and a report
	$(BIN)/propend demo

test: $(STAMP)          ## every test
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint             ## lint, types, floors and the quick tests, in under a minute
	$(BIN)/python -m pytest -q -m "not slow" -x

bench: $(STAMP)         ## speed against named peers; tables of quality are under benchmarks/quality
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
