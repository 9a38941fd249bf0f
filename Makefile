# KTO Studio: the commands everyone uses. `make help` lists them.
SHELL := /bin/bash
# The first that runs: a version manager's shim may stand for a Python that is not there.
PYTHON ?= $(shell for name in python3.12 python3.11 python3; do $$name -c '' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The benchmarks whose opponent is TRL, which nothing else here needs.
AGAINST_TRL := training parity learning
BENCH_STAMP := $(VENV)/.installed-bench
PORT ?= $(or $(KTO_PORT),8000)
DATA ?=
ONCE ?=
ARGS ?=
# Killed with make, also by kill -9.
BOUND = exec $(BIN)/python -m app.embedded.child --parent $$PPID --
NAME ?=
# Two test processes fit two cores; more are of no use to a suite that trains models.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo dev test lint format bench screenshots vendor lock browser

help: ## List the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(STAMP) ## Make .venv with everything for development, from requirements.lock

$(STAMP): requirements.lock pyproject.toml setup.py
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or 3.12 is needed. Install it, or say where it is: make PYTHON=/path/to/python3.12 …"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing requirements.lock into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## The whole loop on this machine (ONCE=1: exit when done; PORT=, DATA= folder)
	@$(BOUND) $(BIN)/kto demo --port $(PORT) $(if $(DATA),--data "$(DATA)") $(if $(ONCE),--once)

dev: setup ## The product with reload on code changes (PORT=, DATA= folder)
	@$(BOUND) $(BIN)/kto up --reload --port $(PORT) $(if $(DATA),--data "$(DATA)")

browser: setup
	@$(BIN)/python scripts/browser.py

test: setup browser ## Every test, browser included (ARGS= goes to pytest, WORKERS= processes)
	@OMP_WAIT_POLICY=PASSIVE KTO_CHROMIUM="$$($(BIN)/python scripts/browser.py --path)" $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: setup ## ruff, mypy strict, import-linter, djlint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/djlint templates --lint --quiet

format: setup ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: setup $(if $(filter $(NAME),$(AGAINST_TRL)),$(BENCH_STAMP)) ## One benchmark: NAME=training|parity|collection|… (QUICK=1: under a minute; TRL is installed for those that need it)
	@test -n "$(NAME)" || { echo "Say which: make bench NAME=…"; exit 2; }
	@$(BIN)/python -m bench.$(NAME) $(ARGS)

$(BENCH_STAMP): bench/requirements.lock $(STAMP)
	@echo "Installing bench/requirements.lock into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r bench/requirements.lock
	@touch $@

screenshots: setup browser ## Make the README's pictures again, from a demo run
	@KTO_CHROMIUM="$$($(BIN)/python scripts/browser.py --path)" $(BIN)/python scripts/screenshots.py

vendor: setup ## Copy the front-end packages of package-lock.json into static/vendor
	@$(BIN)/python scripts/vendor.py

lock: ## Resolve requirements.lock again from pyproject.toml
	@$(PYTHON) scripts/lock.py
