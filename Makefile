# make demo           train on the four points of the AVB paper and show the result
# make test           the tests; a few minutes
# make test-slow      the long ones too
# make test-cluster   docs/cluster.md on this machine: a SLURM of two nodes, torchrun, killed workers
# make test-signals   runs that a signal stops at a random moment, 50 of every kind (an hour)
# make mutants        500 small errors, put into the code one at a time: does a test fail? (half an hour)
# make lint           ruff and mypy
# make format         what ruff can put right by itself
# make docs           the site of docs/, in site/
# make clean          removes the environment, the runs and the site

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-cluster test-signals mutants lint format docs clean

demo: $(BIN)/.ready
	$(BIN)/python benchmarks/four_points.py demo

test: $(BIN)/.ready
	$(BIN)/python -m pytest

test-slow: $(BIN)/.ready
	$(BIN)/python -m pytest -m ""

test-cluster: $(BIN)/.ready
	$(BIN)/python tests/cluster/check.py

test-signals: $(BIN)/.ready
	$(BIN)/python tests/signals.py

mutants: $(BIN)/.mutants
	.venv/mutmut/bin/python tests/mutants.py draw runs/mutants.json
	$(BIN)/python tests/mutants.py run runs/mutants.json

lint: $(BIN)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(BIN)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# The environment, made anew when the dependencies change.
$(BIN)/.ready: setup.cfg
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test,lint]"
	touch $@

$(BIN)/.docs: $(BIN)/.ready
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

# mutmut has an environment of its own: with it comes rich, with which Lightning prints other things.
$(BIN)/.mutants: $(BIN)/.ready
	$(BIN)/python -m pip install --quiet --editable ".[mutants]"
	$(PYTHON) -m venv .venv/mutmut
	.venv/mutmut/bin/python -m pip install --quiet "mutmut == 3.8.1"
	touch $@

clean:
	rm -rf .venv runs site
