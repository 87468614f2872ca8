# The two commands: `make demo` and `make test`, each from nothing but Python 3.11+, git and make.
PYTHON ?= python3
BIN := .venv/bin
UV := .uv/bin/uv
# Stages call `python`; no telemetry from anything we start.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: demo test environment lint lock bench clean

demo: environment ## the whole pipeline on the generated catalogue
	dvc repro table_1@demo train_befa@demo
	@echo "All metrics: data/reports/demo/befa.md (to print the table again: $(BIN)/python -m pipelines show demo)"

test: environment ## the whole suite, with the style and import rules
	ruff check .
	ruff format --check .
	lint-imports
	python -m pytest -n 2 --dist loadgroup

environment: .venv/lock ## .venv from requirements.lock

.venv/lock: requirements.lock
	test -x $(UV) || ($(PYTHON) -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.8)
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	cp requirements.lock $@

lint: environment ## mend what can be mended
	ruff check --fix .
	ruff format .

lock: ## resolve pyproject.toml anew into requirements.lock (exact pins and hashes, no index addresses)
	$(UV) pip compile pyproject.toml --extra cpu --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet --output-file requirements.lock

bench: environment ## the figures of docs/performance.md (an hour or more, on an otherwise quiet machine)
	python benchmarks/bench_pipeline.py
	python benchmarks/bench_filter.py
	python benchmarks/bench_encode.py
	python benchmarks/bench_train.py
	python benchmarks/bench_attribute.py
	python benchmarks/bench_flow.py

clean: ## remove the environment (data stay)
	rm -rf .venv .uv
