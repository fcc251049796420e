# `make demo` and `make test` do everything on a fresh machine with Python 3.11; both can be repeated.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Containers often write no bytecode: each of many processes would compile all modules again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo docs test check results clean

help:
	@echo "make demo    install, run the main job on phantom images, write a report"
	@echo "make docs    build the documentation site into site/; broken links are errors"
	@echo "make test    install, run all checks and tests"
	@echo "make check   format, lint, types, layers"
	@echo "make results SETS=FOLDER   make every table of docs/results again from the sets in FOLDER: days"

install: $(STAMP)

# The stamp is written last: an installation that broke off is taken up again.
$(STAMP): pyproject.toml bundles/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' --editable ./bundles
	touch $(STAMP)

demo: install
	$(BIN)/leukoscope demo --out demo

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	sh tests/install_chromium.sh
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

results: install
	$(BIN)/python benchmarks/remake.py $(SETS) --out results

clean:
	rm -rf $(VENV) demo site build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
