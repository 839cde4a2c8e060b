# Everything that is done with a checkout. `make run` is all that a first look needs.

VENV   := .venv
BIN    := $(VENV)/bin
PYTHON := $(BIN)/python
# The interpreter that makes the environment: PYTHON3=python3.12 make setup
PYTHON3 ?= python3
# Arguments for `make run`: make run ARGS=--exit
ARGS ?=
# Which benchmark: make bench NAME=ingest_rows_4x1000
NAME ?=
# How many processes run tests: make test WORKERS=2. 0 is this one.
WORKERS ?= 0
# How often the fault tests kill a server, and the seed of a run that is to be had again: make faults ROUNDS=100 SEED=7
ROUNDS ?= 20
SEED ?=
# The commit that the contract must stay compatible with: make breaking AGAINST=v0.1.0
AGAINST ?= HEAD~1

# The plugins of protoc are scripts in the environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)

STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup generate run test test-slow faults lint breaking envoy-validate types fmt lock bench bench-smoke clean

help:  ## Says what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/:/' | awk -F': ' '{printf "%-14s %s\n", $$1, $$2}'

setup: $(STAMP)  ## Makes the environment from the lock file and installs Penstock into it, as a link to this folder.

# Hashes are checked for every package. The build runs in the same environment (its tools are locked too), because a
# build environment of pip's own would fetch what no lock file names.
$(STAMP): requirements-dev.lock pyproject.toml $(shell find protos -name '*.proto' -o -name '*.py')
	$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make setup PYTHON3=python3.12")'
	$(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

generate: setup  ## Generates the Python stubs and the descriptor set from protos/.
	$(PYTHON) protos/hatch_build.py

run: setup  ## Starts the stack, replays a real shop's orders, and shows live KPIs. ARGS=--exit stops after the replay.
	@$(BIN)/penstock demo $(ARGS)

test: setup  ## The fast tests.
	$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile

test-slow: setup  ## The tests that take longer.
	$(PYTHON) -m pytest -m slow --timeout 900 -n $(WORKERS) --dist worksteal

faults: setup  ## Kills servers in the middle of commits of events and of products, ROUNDS times each, and checks what is left.
	$(PYTHON) -m tests.faults --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))
	$(PYTHON) -m tests.faults.shop --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))

lint: setup  ## Style of the code and of the contract.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/buf lint server/penstock/rpc/contract.binpb --config buf.yaml

breaking: setup  ## Whether clients of the contract of AGAINST, by default the commit before, still understand this one.
	$(PYTHON) protos/breaking.py $(AGAINST)

envoy-validate: setup  ## Whether Envoy takes the configuration that is rendered for it.
	$(PYTHON) -m pytest -q tests/rest/test_envoy.py -k accepts

types: setup  ## mypy, strict.
	$(BIN)/mypy

fmt: setup  ## Formats the code.
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# uv resolves for all platforms and Python versions at once; what it writes is read by pip. UPGRADE=1 takes what is newest.
LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --custom-compile-command 'make lock' \
	$(if $(UPGRADE),--upgrade) pyproject.toml
lock: setup  ## Writes the lock files anew from pyproject.toml. UPGRADE=1 takes the newest versions.
	$(LOCK) --output-file requirements.lock
	$(LOCK) --output-file requirements-dev.lock --group dev --constraint requirements.lock

bench: setup  ## Runs the benchmark NAME, or all that take a minute or less.
	$(PYTHON) -m loadtest $(NAME)

bench-smoke: setup  ## Runs every benchmark for a few seconds, to see that it works, not how fast it is.
	$(PYTHON) -m loadtest --quick

clean:  ## Removes what can be made again; the data of servers (.penstock) stay.
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
