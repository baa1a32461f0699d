# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
LOWEST_TESTS := tests/ode tests/models tests/diffusion tests/data tests/training
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-lowest lint bench pictures clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# torch by itself and first: with it in place, nothing that follows pulls another build of it
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(STAMP)  ## make .venv and install everything into it

demo: $(STAMP)  ## train on real handwritten digits, then sample: four to eight minutes on two cores
	$(BIN)/cunet train --config examples/digits.yaml --output runs/demo $(DEMO_OPTIONS)
	$(BIN)/cunet sample runs/demo --num 64 --steps 50 --scheduler ddim --seed 1 --output runs/demo/digits.png --overwrite
	@echo "Look at runs/demo/digits.png, runs/demo/loss.png and runs/demo/report.md"

# one thread each: as many processes as cores, with a thread per core, would wait for each other
test: $(STAMP)  ## run all tests, on all cores (slow experiments: $(BIN)/pytest -m slow)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 8 --dist worksteal

# the dependencies, and the extras that these tests need, at exactly the lower bounds of pyproject.toml
test-lowest:  ## test the lowest declared versions in an environment of their own (about 6 GB; `make clean` removes it)
	$(PYTHON) -m venv $(LOWEST)
	sed -n '/^dependencies/,/^]/p; /^\(train\|digits\|adaptive\|evaluate\) = /p' pyproject.toml | \
		grep -oE '"[A-Za-z0-9-]+>=[0-9.]+' | tr -d '"' | sed 's/>=/==/' > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $(LOWEST)/lowest.txt \
		pytest pytest-timeout pytest-xdist hypothesis
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not slow" -n auto --maxprocesses 8 $(LOWEST_TESTS)

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

faults: $(STAMP)  ## the fault campaign: kills, full disks, bad files; rows and the table of docs/reliability.md
	$(BIN)/python benchmarks/faults
	$(BIN)/python benchmarks/tables.py

bench: $(STAMP)  ## the benchmarks; rows to benchmarks/results, tables to the pages
	$(BIN)/python benchmarks/solvers.py
	$(BIN)/python benchmarks/presets.py
	$(BIN)/python benchmarks/tables.py

pictures: $(STAMP)  ## the pictures of README and docs that models of the package can make
	$(BIN)/python benchmarks/pictures.py

clean:  ## remove the environments and runs
	rm -rf $(VENV) $(LOWEST) runs
