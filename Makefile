# Everything a person does here. `make demo` and `make test` set up whatever is missing.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEV_STAMP := $(VENV)/.dev-ready
TESTS ?= tests

.PHONY: help setup demo test check format e2e fuzz fuzz-authz bench lock clean

help: ## what there is
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | column -ts $$'\t'

setup: $(STAMP) ## a virtual environment in .venv with Lateen and its Envoy

$(STAMP): requirements/base.txt pyproject.toml tools/setup.sh
	@tools/setup.sh $(VENV) requirements/base.txt
	@touch $@

$(DEV_STAMP): $(STAMP) requirements/dev.txt
	@tools/setup.sh $(VENV) requirements/dev.txt
	@touch $@

demo: $(STAMP) ## a mesh with the sample shop, live in this terminal; Ctrl-C ends it
	@$(BIN)/lateen demo $(ARGS)

test: $(DEV_STAMP) ## all tests, with real Envoys and real traffic
	@tools/test-servers.sh $(VENV)
	@$(BIN)/python -m pytest -q $(ARGS) $(TESTS)

check: $(DEV_STAMP) ## format, lint, types, import rules
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(DEV_STAMP) ## write the format
	$(BIN)/ruff format src tests bench
	$(BIN)/ruff check --fix src tests bench

e2e: $(DEV_STAMP) ## only the tests that run a whole mesh
	@tools/test-servers.sh $(VENV)
	@$(BIN)/python -m pytest -q -m e2e $(ARGS) tests

fuzz: $(DEV_STAMP) ## 10,000 random resources before a real Envoy, about 15 minutes; ARGS="..." for pytest
	@LATEEN_FUZZ_RESOURCES=$${RESOURCES:-10000} LATEEN_FUZZ_SEED=$${SEED:-1} \
	  $(BIN)/python -m pytest -q -s $(ARGS) tests/pilot/taste/test_fuzz.py

fuzz-authz: $(DEV_STAMP) ## 50,000 random pairs of policies and requests, each decided by a real Envoy, about 2 minutes
	@LATEEN_AUTHZ_PAIRS=$${PAIRS:-50000} LATEEN_AUTHZ_SEED=$${SEED:-2} \
	  $(BIN)/python -m pytest -q -s $(ARGS) tests/authz/test_real_envoys.py

bench: $(DEV_STAMP) ## measure, print a table, write bench/results/*.json
	@$(BIN)/python -m bench $(ARGS)

lock: 
	@for set in base dev; do \
	  extra=$$([ $$set = dev ] && echo "--extra dev"); \
	  uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	    --python-version 3.11 --upgrade $$extra pyproject.toml requirements/build.in -o requirements/$$set.txt; \
	done

clean: ## forget the environment and what tools left
	rm -rf $(VENV) build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
