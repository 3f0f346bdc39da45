# One command sets up everything and runs the main job: make demo. One sets up everything and tests it: make test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo dev sandbox test test-deployments lint types definitions check hooks image docs docs-serve docs-tables docs-pictures lock test-lowest benchmark-extra benchmark-resolve benchmark-copy benchmark-backfill benchmark-again benchmark-audit soak soak-prove properties coverage mutants verify-lock benchmark-shared-limit benchmark-scaling benchmark benchmark-limit clean

demo: $(READY)
	$(BIN)/luma-pipeline demo

dev: $(READY)
	$(BIN)/luma-pipeline dev

sandbox: $(READY)
	$(BIN)/luma-pipeline sandbox

test: $(READY)
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations=20

# Deployments whose servers and workers are killed and restarted, the wheel with both ends of what it may use: minutes,
# and Redis.
test-deployments: $(READY)
	$(BIN)/python -m pytest -m deployment

# Rounds of runs that are killed and disturbed: make soak ROUNDS=200 SEED=1. The round of a seed: ROUNDS=1 SEED=<it>.
ROUNDS ?= 20
SEED ?= 1
soak: $(READY)
	$(BIN)/python -m tests.faults.soak --rounds $(ROUNDS) --seed $(SEED)

# Each invariant of the soak is broken by hand, and has to be seen.
soak-prove: $(READY)
	$(BIN)/python -m tests.faults.soak --prove

# Branches of the provider's, the media and the dataset rooms that their tests do not take; fails under 95 %.
coverage: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check coverage --constraint requirements.lock
	mkdir -p build
	$(BIN)/python -m coverage run -m pytest tests/luma tests/media tests/dataset tests/s3 tests/properties tests/pipeline
	$(BIN)/python -m coverage report

# Changes of the code that no test notices, a module at a time: `make mutants MODULES="luma/responses.py media/keys.py"`.
mutants: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "mutmut>=3.3"
	$(BIN)/python -m tests.mutants $(MODULES)

# The properties with many times the examples of the default suite, other ones in every run.
TIMES ?= 20
PROPERTIES ?= tests/properties tests/luma/test_flatten.py tests/luma/test_json_reader.py tests/media/test_facts.py tests/media/test_keys.py
properties: $(READY)
	PROPERTIES_TIMES=$(TIMES) $(BIN)/python -m pytest --timeout 7200 $(PROPERTIES)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

definitions: $(READY)
	$(BIN)/dagster definitions validate

check: lint types definitions docs test

# What git asks before a commit (lint) and before a push (types).
hooks: $(READY)
	$(BIN)/pre-commit install

image:
	docker build --file deploy/docker-compose/Dockerfile --tag luma-pipeline .

# The site, into build/docs; it fails on a warning.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# What the docs have from the code: tables, and pictures of the sandbox in the UI (needs chromium).
docs-tables: $(READY)
	$(BIN)/python docs/tables.py

docs-pictures: $(READY)
	$(BIN)/python -m tests.docs.pictures

# The lower bounds of pyproject.toml, each installed and tested.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-lowest.lock
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(VENV)-lowest/bin/python -m pytest -n 3 --dist loadfile tests/http tests/s3 tests/limit tests/luma tests/media tests/source tests/dataset tests/engine tests/pipeline

# All need uv: the lowest and the newest versions that pyproject.toml allows, for every supported Python.
lock:
	uv pip compile --universal --python-version 3.11 pyproject.toml --extra dev --no-annotate --no-header --quiet --output-file requirements.lock
	uv pip compile --universal --python-version 3.11 pyproject.toml --extra dev --constraint requirements.lock --generate-hashes --no-annotate --no-header --quiet --output-file requirements-hashed.lock
	uv pip compile --resolution lowest-direct --python-version 3.11 pyproject.toml --extra dev --no-annotate --no-header --quiet --output-file requirements-lowest.lock

# Whether what is installed is what the lock says; needs no network.
verify-lock: $(READY)
	$(BIN)/python -m tests.packaging.installed_packages

# All of them, in an hour, into benchmarks/RESULTS.md. Needs a quiet machine, and nginx.
benchmark: benchmark-extra
	$(BIN)/python -m benchmarks

benchmark-extra: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[benchmark]'

benchmark-resolve: benchmark-extra
	$(BIN)/python -m benchmarks.resolve

benchmark-limit: $(READY)
	$(BIN)/python -m benchmarks.limit

benchmark-copy: benchmark-extra
	$(BIN)/python -m benchmarks.copy

benchmark-backfill: $(READY)
	$(BIN)/python -m benchmarks.backfill

benchmark-shared-limit: $(READY)
	$(BIN)/python -m benchmarks.shared_limit

benchmark-scaling: $(READY)
	$(BIN)/python -m benchmarks.scaling --measure

benchmark-again: $(READY)
	$(BIN)/python -m benchmarks.again

benchmark-audit: $(READY)
	$(BIN)/python -m benchmarks.audit

clean:
	rm -rf $(VENV) $(VENV)-lowest .sandbox build *.egg-info

# The lock has all packages, so that pip has nothing to resolve; what has other bytes than the lock says is refused.
$(READY): requirements-hashed.lock pyproject.toml setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-hashed.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)
