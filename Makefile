# Two commands on a fresh machine: `make demo` and `make test`. Both stand on `make install`.
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHELL := /bin/bash

.PHONY: help install demo quick test test-all test-oldest e2e-cluster fuzz chaos lint format types check clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

install: $(STAMP)  ## make .venv with everything in it (quick when nothing changed)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tamis needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (some minutes the first time)"
	@# torch first and by its exact version, so that pip does not choose another build of it
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' $(CONSTRAINTS))"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: install  ## plant harmful pairs in a small corpus, curate it, and say how many were found
	@$(BIN)/python benchmarks/lab/demo.py

# in the order of tests/conftest.py: the long files come first, and none of them is alone at the end
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# by folder, too: to look into the other ones imports torch and Ray
QUICK := tests/test_*.py tests/api tests/deploy tests/operators/{conversation,tokens,statistics,methods,references} \
	tests/pipeline/{storage,inputs,job,run,planning,fit,references,report,emit}

quick: install  ## what needs neither Ray nor a server nor a whole run, in a minute or so
	@$(PYTEST) -m quick $(QUICK)

test: install  ## the tests but for those that kill, disturb or repeat whole runs, in two processes
	@$(PYTEST) -m "not long"

test-all: install  ## all tests but those of e2e-cluster, twice as long and more
	@$(PYTEST) -m "not cluster"

e2e-cluster: install  ## jobs on a cluster of two nodes, by ray job submit: stopped, submitted again, a node killed
	@$(BIN)/python -m pytest -m cluster tests/e2e/test_submitted_job.py

# an environment of its own, with the other end of the ranges in pyproject.toml
OLDEST := VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

test-oldest:  ## make test, on the oldest versions that tamis works with
	@$(MAKE) --no-print-directory test $(OLDEST)

SEED ?= 1
chaos: install  ## 20 rounds of kill -9 and failing storage, each compared with a calm run: make chaos SEED=2
	@$(BIN)/python tests/chaos/harness.py --rounds 20 --seed $(SEED)

FUZZ_SECONDS ?= 300
fuzz: install  ## fuzz the reader, the dialects, the spans and the manifests for long, then a million hostile rows
	@for target in reader dialect spans manifest; do \
		$(BIN)/python tests/fuzz/coverage_guided.py --target $$target --seconds $(FUZZ_SECONDS) || exit 1; done
	@$(BIN)/python tests/fuzz/million_rows.py --rows 1000000 --seed 1

lint: install  ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: install  ## ruff: mend what can be mended
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: install  ## mypy --strict on the whole package
	@# the import name differs from the folder names, so mypy reads them through links
	@rm -rf build/types && mkdir -p build/types/tamis
	@ln -s $(addprefix ../../../,operators pipeline $(wildcard api/*.py api/py.typed)) build/types/tamis/
	@MYPYPATH=build/types $(BIN)/mypy -p tamis

check: lint types test-all  ## what CI runs

clean:  ## remove .venv, .venv-oldest and everything built
	@rm -rf $(VENV) .venv-oldest build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
