# Every target sets itself up: Python 3.11 or later and make are all that has to be there. Try `make help`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
READY := $(VENV)/.ready
STATE ?= $(CURDIR)/.understudy

# Whoever imports Airflow makes a home for it. It must be ours, never ~/airflow.
export AIRFLOW_HOME ?= $(STATE)/airflow
# Without cached bytecode each of a dozen processes would compile the same libraries again.
export PYTHONDONTWRITEBYTECODE :=
export UV_HTTP_TIMEOUT ?= 180
# uv does not read pip's settings; a mirror configured for pip holds for it too.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

# Commands that tests need beside Python, and the Debian packages that bring them.
SYSTEM := chromium:chromium pg_createcluster:postgresql

COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11

.PHONY: help demo up test lint types format docs lock bench calibrate faults drill system clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## walk two challengers through the whole lifecycle on real flights (KEEP=1 leaves the pages open)
	@KEEP="$(KEEP)" $(PY) -m examples.flights.demo

up: $(READY) ## keep MLflow and Airflow running for development until Ctrl-C
	@$(PY) -m understudy.stack --state "$(STATE)"

test: $(READY) system ## run every test (ARGS="-k name" narrows, ARGS="-n 0" keeps to one process)
	@$(PY) -m pytest -n 3 --no-loadscope-reorder $(ARGS)

lint: $(READY) types ## style, format, types and the floors of the house
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(READY) ## types only
	@$(BIN)/mypy

format: $(READY) ## rewrite files in the house format
	@$(BIN)/ruff check --fix-only --exit-zero .
	@$(BIN)/ruff format .

docs: $(READY) ## write docs/reference from the code
	@$(PY) docs/generate.py

bench: $(READY) ## measure start-up and parsing on this machine
	@$(PY) -m bench $(ARGS)

faults: $(READY) ## break the gateway in every way for a minute each, and write docs/faults.md (30 minutes)
	@$(PY) -m pytest -m faults tests/faults $(ARGS)

drill: $(READY) ## practise every scenario of the way back on the example's champion, and write docs/drills.md (5 minutes)
	@$(PY) -m examples.flights.drill $(ARGS)

calibrate: $(READY) ## simulate false alarms and detection of every rule, and write docs/calibration.md (25 minutes)
	@$(PY) -m bench.calibration $(ARGS)

lock: $(READY) ## make the hash-locked requirements again from pyproject.toml (UPGRADE=1 takes newer versions)
	@$(COMPILE) $(if $(UPGRADE),--upgrade) requirements/uv.in -o requirements/uv.txt
	@$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra examples --extra test -o requirements/dev.txt
	@$(COMPILE) $(if $(UPGRADE),--upgrade) requirements/mlserver.in -o requirements/mlserver.txt
	@$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra production -c requirements/dev.txt -o requirements/production.txt

system: ## install what tests need beside Python, where that is possible
	@missing=""; for pair in $(SYSTEM); do command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing$$missing for the tests that need it"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null \
	    || { echo "Could not install$$missing: the tests that need it will be skipped and say so."; [ -z "$${CI:-}" ]; }; \
	else \
	  echo "Not installed:$$missing. The tests that need it will be skipped and say so."; \
	fi

clean: ## remove .venv, state and caches
	@rm -rf $(VENV) "$(STATE)" .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(READY): requirements/dev.txt requirements/uv.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "There is no '$(PYTHON)' here. Understudy needs Python 3.11 or later: install it, or name it with PYTHON=/path/to/python3.12." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { \
	  echo "'$(PYTHON)' is $$("$(PYTHON)" -V 2>&1). Understudy needs Python 3.11 to 3.14: install one, or name it with PYTHON=/path/to/python3.12." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: its venv module is missing. On Debian and Ubuntu: apt-get install python3-venv." >&2; exit 1; }
	@$(PY) -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	@echo "Setting up $(VENV) (once, and again when the lock changes)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip install --quiet --python $(PY) --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@
