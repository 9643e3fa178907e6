# Two commands are all a newcomer needs: `make demo` and `make test`. Everything they need is installed or built by them:
# uv and Python packages into .venv, Kubernetes and friends from pinned Go modules into the cache folder.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CACHE := $(or $(LOWBEAM_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME)/lowbeam,$(HOME)/.cache/lowbeam))
UV := $(or $(shell command -v uv 2>/dev/null),$(CACHE)/uv/bin/uv)
PY := .venv/bin/python
STAMP := .venv/.synced

.PHONY: help demo test test-on-the-cluster test-long-waits test-beside test-clients test-image soak lint bench \
	bench-selection bench-worker backtest clean env tools unit cluster node chart worker worker-oldest generate format

help: ## this text
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

export PATH := $(dir $(UV)):$(PATH)
# Byte code is kept even where a machine says otherwise: every process would compile torch anew, which takes 4 s.
export PYTHONDONTWRITEBYTECODE :=

$(UV):
	python3 -m venv $(CACHE)/uv && $(CACHE)/uv/bin/pip install --quiet 'uv>=0.9'

$(STAMP): pyproject.toml uv.lock | $(UV)
	$(UV) sync --locked --all-extras --quiet
	@touch $@

env: $(STAMP) ## the Python environment in .venv
tools: $(STAMP) ## build the Kubernetes parts (about 10 minutes once, then cached outside the tree)
	$(PY) -m tools.localcluster build

demo: $(STAMP) ## the whole story on a real cluster: choose, serve, cut, restore (KEEP=1 leaves it running)
	$(PY) -m tools.demo $(if $(KEEP),--keep)

# Tests on a cluster mostly wait, the others compute: side by side they take two thirds of the time. The longest waits are
# a third part, on clusters of their own. Two of the three show their output when they are done. The tools come first:
# builds side by side would compile what they share twice.
LONG_WAITS := $(patsubst %,tests/cluster/test_operator_%.py,demand killed_at_each_write lifecycle outage process)
BESIDE := tests/unit tests/property tests/worker
test: tools ## every test, on a real control plane
	@$(MAKE) --no-print-directory --keep-going --jobs=3 test-on-the-cluster test-long-waits test-beside
test-on-the-cluster: $(STAMP)
	$(PY) -m pytest tests $(addprefix --ignore=,$(BESIDE) $(LONG_WAITS) tests/clients)
test-long-waits test-beside: $(STAMP)
	@log=$$(mktemp) && trap 'rm -f $$log' EXIT && \
	if $(PY) -m pytest $(if $(filter test-beside,$@),$(BESIDE),$(LONG_WAITS)) >$$log 2>&1; then cat $$log; else cat $$log; exit 1; fi

# What `make test` leaves out: it takes long, or gigabytes.
test-clients: $(STAMP) ## a worker against AIPerf, GuideLLM and k6 (installs the first two and builds k6 on first use: 6 GB)
	$(PY) -m pytest tests/clients $(PYTEST_ARGS)
test-image: $(STAMP) ## the worker's image built by buildah and run as a pod on a real node (root on Linux)
	LOWBEAM_TEST_IMAGE=1 $(PY) -m pytest tests/node/test_worker_image.py $(PYTEST_ARGS)
soak: $(STAMP) ## workers under load, poison and a change every 10 s for half an hour (MINUTES=5: as long as that)
	$(PY) -m tools.soak --minutes $(or $(MINUTES),30)

unit: $(STAMP) ## unit and property tests only (seconds)
	$(PY) -m pytest tests/unit tests/property $(PYTEST_ARGS)
cluster: $(STAMP) ## tests on the real control plane
	$(PY) -m pytest tests/cluster $(PYTEST_ARGS)
node: $(STAMP) ## tests on a real node (root on Linux)
	$(PY) -m pytest tests/node $(PYTEST_ARGS)
chart: $(STAMP) ## Helm chart tests
	$(PY) -m pytest tests/chart $(PYTEST_ARGS)
worker: $(STAMP) ## worker tests with real torch
	$(PY) -m pytest tests/worker $(PYTEST_ARGS)
worker-oldest: $(STAMP) ## the decoder's contract with the oldest transformers that it works with (an environment of its own)
	$(PY) -m tools.overlay tests/worker/oldest-requirements.txt -m pytest tests/worker/test_decoder_contract.py $(PYTEST_ARGS)

lint: $(STAMP) ## ruff, mypy --strict, import-linter, generated files up to date
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) -m tools.generate --check

generate: $(STAMP) ## crds/, the chart's copies and the reference docs from their sources
	$(PY) -m tools.generate

format: $(STAMP) ## ruff format and fix
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: $(STAMP) ## figures as ratios against a fixed kernel, printed as a table
	$(PY) -m tools.bench

bench-selection: $(STAMP) ## joules per request of six ways to choose, replayed on held-out days
	$(PY) -m tools.bench selection

bench-worker: $(STAMP) ## CPU per token and per request of the worker's engines against other ways to batch
	$(PY) -m tools.bench worker

backtest: $(STAMP) ## how well observed load is foreseen, on days that no parameter has seen
	$(PY) -m tools.backtest

clean: ## clusters of this checkout down, .venv and caches of tools away
	-[ -x $(PY) ] && $(PY) -m tools.localcluster down --all
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
