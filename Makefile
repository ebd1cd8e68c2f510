# `make help` lists the targets. Each one installs what it needs.

UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := $(UV) run --locked --no-sync
LINT := $(UV) run --locked --isolated --only-group lint
DUCKLAKE := $(foreach package,duckdb duckdb-extension-ducklake duckdb-extension-postgres-scanner,--with $(package)==1.5.5)

CLONE_TESTS := tests/stack/test_up.py # after the others: two stacks at once are slow
OPERATING_TESTS := $(addprefix tests/stack/test_,deploy.py doctor.py upgrade.py preview.py)
LONG_TESTS := $(OPERATING_TESTS) $(addprefix tests/stack/test_,chaos.py siege.py docker_runs.py)

.DEFAULT_GOAL := help
.PHONY: help up down deploy upgrade preview preview-down doctor restore user kubernetes proof demo dev check audit sbom format test test-slow test-destinations test-stack test-operating test-docker-runs test-kubernetes test-plain test-upstream chaos siege soak stress bench bench-small clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

up: ## start everything in Docker, wait until it is healthy, print the address and missing secrets
	@python3 -m scripts.up

down: ## stop everything in Docker and keep the data
	docker compose down

deploy: ## LOCATION=…: build one location and replace its container; put the old one back if it does not load
	@python3 -m scripts.deploy $(LOCATION)

upgrade: ## after `git pull`: back up, build, drain, migrate, start and verify, or bring the old version back (DRAIN_SECONDS=…)
	@python3 -m scripts.upgrade

preview: ## NAME=…: start or update this checkout beside the main stack, on the sandbox, with a warehouse of its own
	@python3 -m scripts.preview up "$(NAME)"

preview-down: ## NAME=…: delete a preview with its volumes and images
	@python3 -m scripts.preview down "$(NAME)"

doctor: ## say what is wrong with the stack in Docker, and what to do about it
	@python3 -m scripts.doctor

user: ## add a user to the login, or change it: NAME=ann, GROUP=viewers (the default), editors, or none to remove; no NAME: list
	@docker compose --file docker-compose.yml --file compose.login.yml run --rm --no-deps login user "$(NAME)" "$(GROUP)"

restore: ## put a backup into the databases of the stack, after a question (FROM=… names another than the latest)
	@python3 -m scripts.restore $(if $(YES),--yes) $(if $(FROM),'$(FROM)')

kubernetes: .venv/synced ## write what deploy/kubernetes has of the compose files (docs/kubernetes.md)
	@$(RUN) python -m scripts.kubernetes

proof: .venv/synced ## without Docker: parallel partitions with dagster-dlt's resource and with ours, and the rows lost
	@$(RUN) python -W "ignore:XDG_RUNTIME_DIR" -m scripts.proof

demo: .venv/synced ## without Docker: load every asset from the sandbox into data/warehouse.duckdb
	@$(RUN) python -m scripts.local demo

dev: .venv/synced ## without Docker: run the same system as processes until Ctrl-C
	@$(RUN) python -m scripts.local dev

check: .venv/synced ## check style, types, import contracts, the lock file, and that every module of a location loads
	$(UV) lock --check
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) lint-imports
	$(LINT) shellcheck .ci/run deploy/login/key deploy/login/user sandbox/shop/5_password.sh
	$(LINT) hadolint Dockerfile deploy/login/Dockerfile deploy/docker-runs/Dockerfile
	$(LINT) zizmor --offline --quiet .github
	$(LINT) check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(RUN) python -m scripts.check_modules
	@$(RUN) python -m runtime.check_project code_locations dlt_sources

audit: $(UV) ## look up all locked packages in the OSV database, and fail if one has a known vulnerability
	@$(UV) audit --locked || { code=$$?; test $$code = 2 || exit $$code; \
	echo 'NOT AUDITED: https://api.osv.dev cannot be reached from here, see above.'; }

sbom: $(UV) ## write artifacts/sbom.json: all locked Python packages, in CycloneDX
	@mkdir -p artifacts
	@$(UV) export --quiet --locked --no-emit-project --all-groups --format cyclonedx1.5 --output-file artifacts/sbom.json

format: .venv/synced ## format the code and fix what ruff can fix
	$(RUN) ruff check --fix
	$(RUN) ruff format

test: .venv/synced ## run unit and integration tests, without Docker
	$(RUN) pytest --numprocesses 2 --ignore tests/stack --ignore tests/destinations --ignore tests/kubernetes -m "not slow"

test-slow: .venv/synced ## run the tests that `make test` leaves out: further examples of what it tests
	$(RUN) pytest --numprocesses 2 --ignore tests/stack --ignore tests/destinations --ignore tests/kubernetes -m slow

test-destinations: .venv/synced ## run loads into Delta, Iceberg, DuckLake and MariaDB, and check the SQL for warehouses in the cloud
	$(UV) run --locked --isolated --group destinations pytest --numprocesses 2 tests/destinations
	$(UV) run --locked --isolated --group destinations $(DUCKLAKE) pytest tests/destinations/test_ducklake.py

test-stack: .venv/synced ## test the real compose stack, in its own project (needs Docker and Chromium)
	$(RUN) pytest tests/stack $(addprefix --ignore ,$(LONG_TESTS)) $(addprefix --ignore ,$(CLONE_TESTS))
	$(RUN) pytest $(CLONE_TESTS)

test-operating: .venv/synced ## test deploy, doctor, upgrade with its roll back, and preview on real stacks (needs Docker and git)
	for file in $(OPERATING_TESTS); do $(RUN) pytest $$file || exit; done

test-docker-runs: .venv/synced ## test the compose stack with a container per run (needs Docker)
	$(RUN) pytest tests/stack/test_docker_runs.py
	STACK_COMPOSE_FILE=docker-compose.yml:docker-compose.docker-runs.yml $(RUN) pytest tests/stack/test_stack.py tests/stack/test_real_data.py

test-kubernetes: .venv/synced ## test the sandbox overlay on a real cluster (KUBERNETES_CLUSTER=…: docs/kubernetes.md)
	$(RUN) pytest --capture no tests/kubernetes

test-plain: .venv/synced ## run tests without runtime/accelerate: the runtime, the locations, a load of everything (needs Docker)
	RUNTIME__ACCELERATE=false $(RUN) pytest --numprocesses 2 tests/runtime tests/code_locations -k "not (postgres or histories or accelerate)"
	RUNTIME__ACCELERATE=false $(RUN) pytest tests/stack/test_stack.py -k "accelerated or arrive"

test-upstream: $(UV) ## run the suites of Dagster and dlt against the libraries and against ours (takes hours; SUITE=… runs one)
	@$(UV) run --locked --isolated --group upstream python -m tests.upstream $(SUITE)
	AS_DLT_HISTORIES=200 $(RUN) pytest --numprocesses 2 tests/runtime/test_as_dlt.py

chaos: .venv/synced ## kill each part of the stack during a backfill and print how long each recovery takes
	$(RUN) pytest tests/stack/test_chaos.py

siege: .venv/synced ## queue 1,000 runs and load 200 partitions while 50 people use the UI (SIEGE_MINUTES=10), and print the pages' times
	$(RUN) pytest tests/stack/test_siege.py

soak: .venv/synced ## write and prune a week of runs (SOAK_RUNS=… a day), and print how the tables level off
	SOAK_RUNS=$${SOAK_RUNS:-500} $(RUN) pytest --capture no --timeout 7200 tests/code_locations/test_platform_pruning.py -k level_off

stress: .venv/synced ## load 24 partitions with 6 parallel runs, 10 times on Postgres and DuckDB; then crash at random
	@$(RUN) python -W "ignore:XDG_RUNTIME_DIR" -m tests.runtime.stress
	HYPOTHESIS_PROFILE=stress $(RUN) pytest --numprocesses 2 tests/runtime/test_histories.py tests/runtime/test_machines.py tests/runtime/accelerate

bench: .venv/synced ## run all benchmarks and write benchmarks/README.md (takes hours; SECTION=… runs one)
	@$(RUN) python -W "ignore:XDG_RUNTIME_DIR" -m benchmarks $(SECTION)
	@$(UV) run --locked --isolated --only-group bench python benchmarks/plot.py

bench-small: .venv/synced ## run the benchmarks with few rows to check what they load, not how fast
	@$(RUN) python -W "ignore:XDG_RUNTIME_DIR" -m benchmarks --small

clean: ## delete what `make demo` and `make dev` loaded
	rm -rf data/dagster data/dlt data/files data/shop data/warehouse.duckdb data/warehouse.duckdb.lock

.venv/synced: pyproject.toml uv.lock | $(UV)
	$(UV) sync --locked --quiet --compile-bytecode
	@touch $@

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv==0.13.9
