# make demo · make test · make check · make bench: each sets up .venv by itself.
# On a machine with a GPU: make install CONSTRAINTS=   (leaves the CPU pin of torch out)

PYTHON ?= python3
CONSTRAINTS ?= -c constraints.txt
VENV := .venv
BIN := $(VENV)/bin
# What a stamp depends on: a changed list of packages installs again, a changed source does not (the install is editable).
NEEDS := pyproject.toml constraints.txt

.PHONY: install demo test check bench clean

install: $(VENV)/.demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmbert needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# torch first, by itself: with it in place nothing else can draw in another build of it.
$(VENV)/.torch: $(NEEDS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(CONSTRAINTS) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(CONSTRAINTS) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(CONSTRAINTS) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/mmbert run recipes/nano.yaml

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal  # one thread a worker

check: $(VENV)/.dev
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/ruff check --no-cache .  # an import is sorted by which files exist, which the cache does not see
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/training.py --tokens 4096 --context 512

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .hypothesis
