.DEFAULT_GOAL := help
.PHONY: help setup demo test slow lint validate deploy smoke bench clean lock
PYTHON ?= python3
BIN := .venv/bin
# Test files at once: each has a Spark session and engines of its own, about 6 GiB.
WORKERS ?= 2
# Images for containers often set it. Each of dozens of processes would then compile what it imports anew: vLLM, 20 s.
unexport PYTHONDONTWRITEBYTECODE
# Locks are installed as they are: no resolution on the user's machine, and every file checked by its hash.
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

setup: .venv/ready ## make .venv from the pinned lock

.venv/ready: requirements/cpu.txt requirements/uv.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "taolake: got no $(PYTHON), wanted Python 3.11 or 3.12: install python3.11 and python3.11-venv" >&2; exit 1; }
	@$(PYTHON) -I src/taolake/preflight.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/uv.txt
	$(INSTALL) --require-hashes -r requirements/cpu.txt
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

demo: setup ## run the embedded example: one whole round, ending with a proof card
	@$(BIN)/taolake demo

# Files keep the order that tests/conftest.py gives them, in which long ones come first and short ones fill the end.
# Two of them share the cores at any time: one thread each, and none that spins while it waits (src/taolake/__init__.py).
test: setup ## run the tests (no GPU, no key)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not gpu and not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

slow: setup ## run the tests that `make test` leaves out: an hour or more, one at a time
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# On Databricks, by its CLI: what .github/workflows and ci/azure-pipelines.yml run too.
TARGET ?= dev
validate: ## check the bundle as TARGET would deploy it (dev, staging or prod)
	databricks bundle validate -t $(TARGET) --strict

deploy: ## deploy the bundle to TARGET
	databricks bundle deploy -t $(TARGET) --auto-approve

smoke: ## run a small round on TARGET
	databricks bundle run tao_smoke -t $(TARGET)

bench: setup ## run every benchmark and write build/bench/*.json
	@mkdir -p build/bench
	@for script in benchmarks/[a-z]*.py; do \
		$(BIN)/python $$script --json build/bench/$$(basename $$script .py).json || failed="$$failed $$script"; \
	done; [ -z "$$failed" ] || { echo "targets missed:$$failed" >&2; exit 1; }

lock: setup ## make requirements/*.txt again from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra spark --extra cpu --extra dev --universal --python-version 3.11 $(LOCK) -o requirements/cpu.txt
	$(BIN)/uv pip compile pyproject.toml --extra spark --extra gpu $(LINUX) $(LOCK) -o requirements/gpu.txt
	$(BIN)/uv pip compile pyproject.toml --extra gpu $(LINUX) $(LOCK) -o requirements/databricks.txt
LINUX := --python-version 3.12 --python-platform x86_64-manylinux_2_34
LOCK := --override requirements/overrides.txt --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock"

clean: ## delete everything that was made, the environment too
	rm -rf build .venv .pytest_cache .mypy_cache .ruff_cache
