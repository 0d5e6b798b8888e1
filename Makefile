# What a person types. Everything lies in .venv/ and out/; `make clean` removes both.
#
#   make demo    36 finished ads from a Parquet manifest, on this machine's CPU
#   make test    the tests (make test ARGS="tests/schedule -x")
#   make soak    whole runs through every fault on real Ray, and the table of tests/soak/MATRIX.md
#   make lint    ruff and mypy
#
# PYTHON=python3.12 chooses the interpreter; PIP_ARGS="--index-url ..." is handed to every pip install.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test quick soak lint clean constraints

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIP_ARGS ?=
ARGS ?=
# the first that runs and is new enough; 3.11 is what the tests ran with
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.base
	$(BIN)/wanflow run jobs/ad_variants.yaml

# a process a core, four at most: each has torch in memory
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

test: $(VENV)/.dev
	$(PYTEST) $(ARGS)

# without the tests that take more than about ten seconds each
quick: $(VENV)/.dev
	$(PYTEST) -m "not slow and not gpu and not soak" $(ARGS)

# ten minutes on two quiet cores; SOAK="replica_killed drained" for some of the faults
SOAK ?=
soak: $(VENV)/.dev
	$(BIN)/python -m tests.soak $(SOAK) $(if $(SOAK),,--write)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) out .mypy_cache .pytest_cache .ruff_cache

# after a change of the ranges in pyproject.toml
constraints: $(VENV)/.dev
	sed -n '/^#/p' constraints.txt > constraints.new
	$(PIP) freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' | sort -f >> constraints.new
	mv constraints.new constraints.txt

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "wanflow needs Python 3.11 or newer; found none. Install one, or: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3" >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' || { \
		echo "wanflow needs Python 3.11 or newer; $(PYTHON) is older or does not run." >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# The base is what `make demo` needs, dev is what `make test` needs on top. The stamps keep set-up from running twice.
$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing wanflow into $(VENV) (versions of constraints.txt)."
	@echo "Downloads about 500 MB of wheels, 200 MB of it PyTorch for the CPU; 2 GB on disk."
	@plan=$$($(PIP) install --dry-run --ignore-installed -c constraints.txt $(PIP_ARGS) torch 2>/dev/null | tail -n 1 || true); \
	case "$$plan" in *nvidia*|*cuda*) \
		echo "But pip's index here offers PyTorch with CUDA only: about 3 GB more. Not wanted? Stop now (Ctrl-C) and run again with"; \
		echo '  PIP_ARGS="--extra-index-url <the CPU wheels of the Get Started page of pytorch.org>"';; esac
	$(PIP) install --quiet -c constraints.txt $(PIP_ARGS) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.base
	@echo "Adding what the tests need: about 100 MB more."
	$(PIP) install --quiet -c constraints.txt $(PIP_ARGS) -e ".[s3,dev]"
	@touch $@
