# make demo · make wheel · make guides · make docs · make test · make check · make bench: each sets up .venv by itself.
# make test-avx2 · make test-no-compiler · make test-oldest: on other machines, as it were.
# On a machine with a GPU: make install CONSTRAINTS=   (leaves the CPU pin of torch out)

PYTHON ?= python3
CONSTRAINTS ?= -c constraints.txt
VENV := .venv
BIN := $(VENV)/bin
# What a stamp depends on: a changed list of packages installs again, a changed source does not (the install is editable).
NEEDS := pyproject.toml constraints.txt

# Bytecode is kept, also where the environment forbids it (images for containers do): tests and the demo start hundreds of
# processes, and compiling what one imports takes as long as the rest of its start.
unexport PYTHONDONTWRITEBYTECODE

PYTEST := $(CURDIR)/$(BIN)/python -m pytest --numprocesses 2 --dist worksteal
# What depends on the processor and on compilers.
ON_THE_MACHINE := tests/inference tests/exporting tests/doctor

.PHONY: install wheel demo guides docs test test-avx2 test-no-compiler test-oldest check bench clean

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

$(VENV)/.docs: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(CONSTRAINTS) --editable '.[demo,docs]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/mmbert run nano

# For other machines: pip install 'dist/mmbert-0.1.0-py3-none-any.whl[demo]'
wheel: | $(BIN)/python
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

guides: $(VENV)/.dev
	$(BIN)/python tests/cli/pages.py  # every line of README and guides, with the demo's model, in an empty folder

docs: $(VENV)/.docs
	$(BIN)/python docs/site/build_site.py  # into build/docs/site; a broken link or a name without a page fails

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PYTEST)  # one thread a worker

# As on a CPU with AVX2 and no more. The cache of torch's compiler is its own: what was compiled under the cap and is
# loaded without it aborts the process (torch 2.13).
test-avx2: $(VENV)/.dev
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MMBERT_NATIVE=avx2 \
		TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/build/avx2 $(PYTEST) $(ON_THE_MACHINE) tests/training

# As where no compiler is installed, and none ever was: what one built before is not found.
test-no-compiler: $(VENV)/.dev
	rm -rf build/no-compiler
	OMP_NUM_THREADS=1 PATH=$(CURDIR)/$(BIN) XDG_CACHE_HOME=$(CURDIR)/build/no-compiler \
		TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/build/no-compiler $(PYTEST) $(ON_THE_MACHINE)

# With the oldest version of every package that pyproject.toml allows, whose warnings about today's others are no
# errors; some minutes to install, not part of .ci/run.
test-oldest:
	rm -rf build/oldest
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/oldest/bin/uv pip install --quiet --python build/oldest/bin/python --resolution lowest-direct --editable '.[dev]'
	OMP_NUM_THREADS=1 build/oldest/bin/python -m pytest --numprocesses 2 --dist worksteal -W ignore::DeprecationWarning

check: $(VENV)/.dev
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/ruff check --no-cache .  # an import is sorted by which files exist, which the cache does not see
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/training.py --tokens 4096 --context 512

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .hypothesis
