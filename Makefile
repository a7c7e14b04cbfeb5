# make run    the default configuration, from a bare machine to results/report.html
# make test   lint, format and tests, the same as continuous integration
# make docs   the documentation's site, in site/
# make bench  the performance table
SHELL := /bin/bash
PYTHON ?= python3
CORES ?= $(shell nproc)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test docs counts bench lint clean

run: $(READY)
	@$(BIN)/python workflow_scripts/after_kill.py --folder .
	@$(BIN)/snakemake --cores $(CORES) --rerun-incomplete --quiet rules host reason
	@echo "report: results/report.html   tables: results/tables/"

test: lint
	@$(BIN)/python -m pytest

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile rules
	@$(BIN)/mypy

docs: $(READY)
	@$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

# after a change of a network or of the catalogue: the counts that `frcore list` shows
counts: $(READY)
	@$(BIN)/python -c 'import json; from frcore.cli.listing import counts_of_catalogue as c; print(json.dumps(c(), indent=1, sort_keys=True))' > frcore/catalogue/parameters.json.part
	@mv frcore/catalogue/parameters.json.part frcore/catalogue/parameters.json

bench: $(READY)
	@$(BIN)/python -m benchmarks

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf results .snakemake
