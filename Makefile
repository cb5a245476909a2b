# Two commands set everything up by themselves: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installing builds the native kernel: it is out of date when its sources have changed.
KERNEL := hatch_build.py vbx/heads/native/build.py $(wildcard vbx/heads/native/kernel/*)
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt

# Real corpora for tests, where there are any; tests that need them are skipped elsewhere.
ifndef VBX_TEST_CORPORA
ifneq ($(wildcard ../shared/corpora),)
export VBX_TEST_CORPORA := $(abspath ../shared/corpora)
endif
endif

.PHONY: demo test test-all lint bench

demo: $(VENV)/.run  ## set up, then the whole path on a synthetic corpus
	$(BIN)/vbx demo

test: $(VENV)/.dev  ## set up, then the fast tests
	$(BIN)/python -m pytest -q -n 2

test-all: $(VENV)/.dev  ## all tests, the slow ones too, and how much of the code they run
	$(BIN)/python -m pytest -q -n 2 -m "not weights and not gpu" --cov=vbx --cov-report=term:skip-covered --cov-fail-under=90

lint: $(VENV)/.dev  ## style, types, import contracts
	$(BIN)/ruff check vbx tests benchmarks
	$(BIN)/ruff format --check vbx tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## the benchmarks, small
	$(BIN)/python benchmarks/linear_baselines.py
	$(BIN)/python benchmarks/opensmile.py
	$(BIN)/python benchmarks/extract_throughput.py
	$(BIN)/python benchmarks/audio.py
	$(BIN)/python benchmarks/cache_io.py
	$(BIN)/python benchmarks/heads_throughput.py --rows 2000 --rounds 1
	$(BIN)/python benchmarks/told_apart.py --tables 20

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vbx needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt $(KERNEL) | $(BIN)/python
	$(PIP) --editable '.[opensmile]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(KERNEL) | $(BIN)/python
	$(PIP) --editable '.[opensmile,audformat,av,remote,dev]'
	touch $@ $(VENV)/.run
