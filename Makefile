# Everything sets up its own environment; nothing but Python 3.11+ and make is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= ../shared/data# of real volumes, for benchmarks
MOMENTS ?= 100

.PHONY: demo test lint types unit format bench drills soak clean

demo: $(STAMP)  ## the whole way on a phantom made on the spot; ends with the path of a report
	rm -rf demo
	$(BIN)/gleanseg demo -o demo

test: $(STAMP) lint types unit  ## what CI runs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell src tests docs benchmarks recipes README.md CONTRIBUTING.md CHANGELOG.md
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)  # worksteal, as loadfile waits for ever where a worker crashes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

bench: $(STAMP)  ## times and memory against other libraries, on a machine that does nothing else; hours
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python benchmarks/run_all.py --data $(DATA)

drills: $(STAMP)  ## kill -9 at many moments of every command and method; long, goes on where it stopped
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m drills --moments $(MOMENTS)

soak: $(STAMP)  ## 10,000 steps and 2,000 cases; memory and file handles must not grow
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m drills.soak

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "gleanseg needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
