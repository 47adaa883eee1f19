# Everything is set up by the first target that needs it; only python3 and make are required.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint golden tables clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("protoclip needs Python 3.11 or later: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(READY)  ## make the environment in .venv

demo: $(READY)  ## pretrain CLIP and ProtoCLIP on the embedded corpus and compare them (5 minutes)
	$(BIN)/protoclip compare experiment=demo

test: $(READY)  ## run the fast tests, in two processes
	$(BIN)/python -m pytest -q -n 2

test-all: $(READY)  ## run all tests, the slow ones too
	$(BIN)/python -m pytest -q -m 'slow or not slow'

lint: $(READY)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

golden: $(READY)  ## write the golden losses anew (a change of digits is a line in the CHANGELOG)
	$(BIN)/python -m tests.golden

tables: $(READY)  ## write the tables of README.md, EXPERIMENTS.md and benchmarks/README.md anew from their rows
	$(BIN)/protoclip table README.md
	$(BIN)/protoclip table EXPERIMENTS.md
	$(BIN)/protoclip table benchmarks/README.md

clean:  ## remove the environment
	rm -rf $(VENV)
