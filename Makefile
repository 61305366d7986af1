# The commands of this project; `make help` lists them. Needs Python >= 3.11 and nothing else installed.
#
# Everything is installed into .venv once, which a stamp file records. pip runs again (and needs the network) only when
# pyproject.toml or this file is newer than the stamp.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
BACKENDS ?=
DEMO ?=
PYTEST ?=
GALLERY ?=

# Every variant that needs no device, except the sharded ones, which take minutes and have a job of the workflow; a test
# compares this list with the suite's own.
CPU_BACKENDS := numpy numpy-readonly numpy-bfloat16 array-api-strict array-api-strict-nodata array-api-strict-nofloat64 \
	torch jax jax-x64 jax-jit dask dask-chunked-class dask-unknown

# With this cache XLA compiles a small operation once for all processes and runs, not once for each.
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/build/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES := -1

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help test test-slow test-integrations lint types conformance unit parallel demo docs gallery mutants bench dist format clean
# One step after the other: the steps print their progress, and two of them measure time.
.NOTPARALLEL:

help:  ## Show this list
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---------------------------------------------------------------- installing

PYTHON_OK := import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, not " + sys.version.split()[0] + "; name one with make PYTHON=...")

$(VENV)/.stamp-venv:
	$(PYTHON) -c '$(PYTHON_OK)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'  # the first with dependency groups
	@touch $@

# One command installs torch and everything that depends on it, so that nothing else chooses its build. The ignored
# UserWarning of setuptools (twelve lines) says only that an editable install is editable.
$(VENV)/.stamp-%: $(VENV)/.stamp-venv pyproject.toml Makefile mlsm/_version.py
	PYTHONWARNINGS=ignore::UserWarning $(PIP) install --quiet --editable . --group $*
	@touch $@

# The test environment has everything that the demo needs; a fresh clone installs less for the demo alone.
DEMO_STAMP := $(if $(wildcard $(VENV)/.stamp-test),$(VENV)/.stamp-test,$(VENV)/.stamp-demo)

# ---------------------------------------------------------------- checking

test: lint types conformance unit  ## Everything that must pass: ruff, mypy, the conformance suite, doctests and tests

lint: $(VENV)/.stamp-test  ## ruff: the linter and the formatter, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp-test  ## mypy --strict over the package, the suite and the user code in tests/typing
	$(BIN)/mypy mlsm conformance tests/typing

# --require: a backend that is missing is a failure here, not a skip.
conformance: $(VENV)/.stamp-test  ## The conformance suite at its quick level, on every CPU backend (BACKENDS="numpy ..." for some)
	$(BIN)/python -m mlsm_conformance run $(or $(BACKENDS),$(CPU_BACKENDS)) --level quick \
		$(addprefix --require=,$(or $(BACKENDS),$(CPU_BACKENDS)))

unit: $(VENV)/.stamp-test  ## pytest: doctests, tests/ and conformance/, whose quick level has run already (PYTEST="-k name -x" is passed on)
	$(BIN)/python -m pytest -m 'not slow' --numprocesses auto --doctest-modules --conformance-level smoke mlsm tests conformance $(PYTEST)

test-slow: $(VENV)/.stamp-test  ## The tests that `make test` leaves out because they take minutes
	$(BIN)/python -m pytest -m slow --numprocesses auto --conformance-level smoke tests conformance $(PYTEST)

# Not part of `make test`, because these packages are larger than all others. The imports make sure that no test is skipped.
test-integrations: export KERAS_BACKEND := torch
test-integrations: $(VENV)/.stamp-integrations  ## The Hugging Face Trainer's loss, and the line for each other framework, in the real one
	$(BIN)/python -c 'import accelerate, catboost, flax, keras, lightning, ndonnx, onnxruntime, skorch, transformers'
	$(BIN)/python -m pytest --doctest-modules mlsm/integrations/transformers.py tests/integrations/test_transformers.py \
		tests/integrations/test_frameworks.py \
		'tests/test_docs.py::test_blocks_run[docs/tutorials/transformers.md]' $(PYTEST)

# Not part of `make test` (which has tests/kernels/test_threads.py), because each of these runs eight times. Tests for one
# thread only are marked with the reason and left out.
parallel: $(VENV)/.stamp-test  ## The tests of the public functions, each by four threads at once, and twice (PYTEST="-k name" is passed on)
	$(BIN)/python -m pytest --parallel-threads 4 --iterations 2 --skip-thread-unsafe=True \
		$(addprefix tests/,test_public_api.py test_core.py test_module.py test_half.py test_sums.py autograd/test_torch_parity.py) $(PYTEST)

# ---------------------------------------------------------------- showing

demo: $(DEMO_STAMP)  ## Handwritten digits as seven-segment displays: every library, two classifiers, a picture (DEMO="--library torch")
	@$(BIN)/python docs/examples/seven_segments.py $(DEMO)

docs: $(VENV)/.stamp-docs  ## Build the site into build/docs; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going --builder html docs build/docs

# A separate environment, because these engines are large, and the tests and reports would use them.
$(VENV)-gallery/.stamp: pyproject.toml Makefile mlsm/_version.py
	$(PYTHON) -c '$(PYTHON_OK)'
	$(PYTHON) -m venv $(VENV)-gallery
	$(VENV)-gallery/bin/python -m pip --disable-pip-version-check install --quiet --upgrade 'pip>=25.1'
	PYTHONWARNINGS=ignore::UserWarning $(VENV)-gallery/bin/python -m pip --disable-pip-version-check install --quiet \
		--editable . --group gallery
	@touch $@

gallery: $(VENV)-gallery/.stamp  ## Judge the losses of other libraries and write docs/gallery.md (minutes; GALLERY="torch_mlsm ..." for some)
	$(VENV)-gallery/bin/python docs/figures/gallery.py $(GALLERY)

bench: $(VENV)/.stamp-test  ## Side by side with every peer that is installed, as ratios
	$(BIN)/python -m mlsm_conformance bench

mutants: $(VENV)/.stamp-mutants  ## Mutate the code that matters and list what the tests did not notice (long)
	$(BIN)/python tests/mutants.py

# ---------------------------------------------------------------- the rest

dist: $(VENV)/.stamp-release  ## Build the sdist and the wheel into dist/ and check them
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

format: $(VENV)/.stamp-test  ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove everything that make and the tools made
	rm -rf $(VENV) $(VENV)-gallery build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
