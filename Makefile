# KTO Studio: the commands everyone uses. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c '' 2>/dev/null && echo python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PORT ?= 8000
DATA ?=
ONCE ?=
ARGS ?=
NAME ?=
# Two test processes fit two cores; more are of no use to a suite that trains models.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo dev test lint format bench screenshots vendor lock browser

help: ## List the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(STAMP) ## Make .venv with everything for development, from requirements.lock

$(STAMP): requirements.lock pyproject.toml setup.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing requirements.lock into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## The whole loop on this machine (ONCE=1: exit when done; PORT=, DATA= folder)
	@$(BIN)/kto demo --port $(PORT) $(if $(DATA),--data "$(DATA)") $(if $(ONCE),--once)

dev: setup ## The product with reload on code changes (PORT=, DATA= folder)
	@$(BIN)/kto up --reload --port $(PORT) $(if $(DATA),--data "$(DATA)")

browser: setup
	@$(BIN)/python scripts/browser.py

test: setup browser ## Every test, browser included (ARGS= goes to pytest, WORKERS= processes)
	@OMP_WAIT_POLICY=PASSIVE KTO_CHROMIUM="$$($(BIN)/python scripts/browser.py --path)" $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

lint: setup ## ruff, mypy strict, import-linter, djlint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/djlint templates --lint --quiet

format: setup ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: setup ## One benchmark: NAME=training|collection|… (QUICK=1: under a minute)
	@test -n "$(NAME)" || { echo "Say which: make bench NAME=…"; exit 2; }
	@$(BIN)/python -m bench.$(NAME)

screenshots: setup browser ## Make the README's pictures again, from a demo run
	@KTO_CHROMIUM="$$($(BIN)/python scripts/browser.py --path)" $(BIN)/python scripts/screenshots.py

vendor: setup ## Copy the front-end packages of package-lock.json into static/vendor
	@$(BIN)/python scripts/vendor.py

lock: ## Resolve requirements.lock again from pyproject.toml
	@$(PYTHON) scripts/lock.py
