# Everything here runs from a bare checkout with Python 3.11 or newer, without root: each target first builds
# .venv from the pinned versions in constraints.txt. `make PYTHON=/path/to/python3.13 test` names the Python.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help demo demo-vm test lint format bench venv clean

PYTHON ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input -q

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: venv ## Watch a running process move, with each codec in turn
	@$(BIN)/python deploy/demo.py

demo-vm: venv ## Watch a virtual machine move to another host and back (takes QEMU)
	@$(BIN)/python deploy/demo_vm.py

test: lint ## Check style and types, then run every test (PYTEST="-k name -x" narrows it)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: venv ## Check style (ruff) and types (mypy --strict)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy --strict

format: venv ## Lay out the sources as ruff does
	@$(BIN)/python -m ruff format .

bench: venv ## Measure the engine, and with root a VM beside QEMU's own migration (BENCH="--set full" for more)
	@$(BIN)/migrated bench engine
	@if [ "$$(id -u)" = 0 ]; then $(BIN)/migrated bench vm $(BENCH); else \
	    echo "without root: no VM is measured beside QEMU's own migration" >&2; fi

venv: $(STAMP)

# The build backend is installed first and used without build isolation, so that it is pinned like the rest.
$(STAMP): pyproject.toml constraints.txt
	@python=$$(PYTHON="$(PYTHON)" sh deploy/find-python.sh) || exit 1; \
	if ! "$(BIN)/python" -c '' 2>/dev/null; then \
	    echo "building $(VENV) with $$python ($$("$$python" -V))"; \
	    "$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@$(PIP) install -c constraints.txt hatchling
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

clean: ## Remove .venv and everything that tools left behind
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
