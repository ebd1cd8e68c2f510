# `make help` lists what there is. Every target does its own set-up.

UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := $(UV) run --locked --no-sync

.DEFAULT_GOAL := help
.PHONY: help up down demo dev check format test test-stack chaos stress bench bench-small clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

up: ## start everything in Docker, wait until it is healthy, print the address
	@python3 -m scripts.up

down: ## stop everything in Docker; the data stays
	docker compose down

demo: .venv/synced ## without Docker: load every asset from the sandbox into data/warehouse.duckdb
	@$(RUN) python -m scripts.local demo

dev: .venv/synced ## without Docker: the same system as processes, Ctrl-C ends it
	@$(RUN) python -m scripts.local dev

check: .venv/synced ## lint, types, import contracts, lock file
	$(UV) lock --check
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) lint-imports

format: .venv/synced ## let ruff mend what it can
	$(RUN) ruff check --fix
	$(RUN) ruff format

test: .venv/synced ## unit and integration tests, no Docker
	$(RUN) pytest --numprocesses 2 --ignore tests/stack

test-stack: .venv/synced ## tests on the real compose stack, in a project of their own (needs Docker and Chromium)
	$(RUN) pytest tests/stack --ignore tests/stack/test_chaos.py

chaos: .venv/synced ## kills each part of the stack in the middle of a backfill; prints a table of recoveries
	$(RUN) pytest tests/stack/test_chaos.py

stress: .venv/synced ## 24 partitions, 6 runs at once, 10 rounds on Postgres and on DuckDB; then crashes at random
	@$(RUN) python -W "ignore:XDG_RUNTIME_DIR" -m tests.runtime.stress
	HYPOTHESIS_PROFILE=stress $(RUN) pytest --numprocesses 2 tests/runtime/test_histories.py

bench: .venv/synced ## measures side by side and writes benchmarks/README.md: hours, on a quiet machine; SECTION=… one alone
	@$(RUN) python -W "ignore:XDG_RUNTIME_DIR" -m benchmarks $(SECTION)
	@$(UV) run --locked --isolated --only-group bench python benchmarks/plot.py

bench-small: .venv/synced ## the same with few rows: that everything is loaded right, not how fast
	@$(RUN) python -W "ignore:XDG_RUNTIME_DIR" -m benchmarks --small

clean: ## forget what `make demo` and `make dev` loaded
	rm -rf data/dagster data/dlt data/files data/shop data/warehouse.duckdb data/warehouse.duckdb.lock

.venv/synced: pyproject.toml uv.lock | $(UV)
	$(UV) sync --locked --quiet --compile-bytecode
	@touch $@

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv==0.13.9
