.PHONY: help setup fmt check test
PYTHON ?= python

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup:  ## install for development into the current environment
	$(PYTHON) -m pip install -e '.[dev]'

fmt:  ## format and sort imports
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

check:  ## lint, format and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:  ## the whole suite, on every core
	$(PYTHON) -m pytest -n auto
