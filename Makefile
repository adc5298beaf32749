# `make demo` and `make test` need only Python 3.11 or newer, make and git: each makes .venv and installs what it uses.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint quick slow clean

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "everyframe needs Python 3.11 or newer; found none on PATH. Try: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev,hub,export]'
	touch $@

demo: $(STAMP)  ## synthetic videos -> check -> train -> label every frame -> evaluate -> report
	$(BIN)/everyframe demo --out demo

# One thread per test process: torch's threads wait for each other on cores that are shared.
PYTEST := OMP_NUM_THREADS=1 EVERYFRAME_TEST_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

test: $(STAMP) lint  ## what CI runs
	$(PYTEST) -m 'not slow and not gpu'

lint: $(STAMP)
	$(BIN)/ruff check src tests experiments
	$(BIN)/ruff format --check src tests experiments
	$(BIN)/mypy

slow: $(STAMP)  ## the long tests, by hand
	$(PYTEST) -m 'slow and not gpu' --timeout 3600

clean:
	rm -rf .venv build dist demo runs
