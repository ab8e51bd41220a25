# make demo | test | check | bench | setup. Nothing but Python 3.11+, make and a C library set is needed beforehand.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXTRAS ?= dev

# What make check runs: every floor's fast tests and the doctests of the lower ones.
QUICK := tests/expression tests/engine tests/tasks tests/cli tests/decide tests/events/test_store.py \
         tests/events/test_clock.py tests/events/test_hashing.py tests/events/test_further_files.py \
         tests/features/test_language.py tests/models/test_linear.py tests/models/test_baseline.py \
         tests/learn/test_metrics.py src/propend/expression src/propend/features src/propend/tasks \
         src/propend/events src/propend/learn

.PHONY: demo test check bench setup lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $(STAMP)

demo: $(STAMP)          ## a simulated shop, from its log to decisions and a report
	$(BIN)/propend demo

test: $(STAMP)          ## every test
	$(BIN)/python -m pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint             ## lint, types, floors and the quick tests, in under a minute
	$(BIN)/python -m pytest -q -n 2 -x -m "not slow and not data" $(QUICK)

bench: $(STAMP)         ## speed against named peers; tables of quality are under benchmarks/quality
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
