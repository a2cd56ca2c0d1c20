# Two commands are enough: `make demo` and `make test`. The rest names combinations of what uv, dbt, dagster and
# matching already do.
UV := $(or $(shell command -v uv 2>/dev/null),.matching/bootstrap/bin/uv)
PYTHON := $(or $(shell command -v python3.11 2>/dev/null),python3)
RUN := $(UV) run --locked
SIZE ?= medium
.DEFAULT_GOAL := help
.PHONY: help demo test lint unit format up down ui

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(UV) ## From raw catalogue to recommendations (SIZE=small|medium|large)
	@$(RUN) matching demo --size $(SIZE)

test: $(UV) lint ## Lint, then the whole suite on a throw-away Postgres
	@$(RUN) pytest

lint: $(UV) ## ruff, types, import walls, SQL style
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) lint-imports
	@$(RUN) python -m orchestration.warehouse.throwaway sqlfluff lint dbt_project/models dbt_project/tests \
		dbt_project/analyses
	@$(RUN) sqlfluff lint --templater raw orchestration/warehouse

unit: $(UV) ## Only the tests that need no server
	@$(RUN) pytest tests/unit

format: $(UV) ## Let the formatters fix what they can
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

up: $(UV) ## Start Postgres and migrate
	@$(RUN) matching up

down: $(UV) ## Stop the embedded Postgres
	@$(RUN) matching down

ui: up ## Dagster UI on http://127.0.0.1:3000
	@$(RUN) matching ui

.matching/bootstrap/bin/uv:
	@echo "uv is missing: installing it into .matching/bootstrap"
	@$(PYTHON) -m venv .matching/bootstrap || \
		{ echo "this Python cannot make environments: install its venv package (Debian: python3-venv), or uv"; exit 1; }
	@.matching/bootstrap/bin/python -m pip install --quiet uv==0.13.9
