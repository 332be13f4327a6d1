# Each target sets up what it needs in .venv and nothing else, except that tests of isolation want bubblewrap and podman
# on the machine: `make test` installs Debian's packages where root runs it. PYTHON makes the environment: 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The extensions are built in place before, and not once more for the install.
EDITABLE := TENSOR_RUNTIME_PREBUILT=1 $(PIP) --no-build-isolation --editable
# The sanitizers' libraries must come first in the process, and Python's own allocator would hide overruns. The safe path
# keeps the checkout's own extensions out, also of the processes that tests start.
SANITIZED := build/sanitize
SANITIZE_TESTS ?= tests/ext tests/fuzz tests/step tests/edge
SANITIZER_ENV = PYTHONPATH=$(SANITIZED)/lib:. PYTHONSAFEPATH=1 PYTHONMALLOC=malloc \
	LD_PRELOAD=$(shell $(CC) -print-file-name=libasan.so):$(shell $(CC) -print-file-name=libubsan.so) \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1

.DEFAULT_GOAL := help
.PHONY: help run test bench lint build sanitize clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: build $(VENV)/.run ## train the digit classifier on a server of its own, without TensorFlow
	$(BIN)/python examples/digits.py

test: build $(VENV)/.test ## run every test; installs the peers, in an environment of their own, on first use
	$(BIN)/python -m tests.peers
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: build $(VENV)/.bench ## measure beside TensorFlow's server; tables, JSON and pictures in bench/results
	$(BIN)/python -m tests.peers
	$(BIN)/python -m runtime.bench $(BENCH_ARGS)

lint: build $(VENV)/.lint ## ruff, mypy and the stubs of the extensions
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest runtime._ext --mypy-config-file pyproject.toml \
		--allowlist tests/house/stubtest.allow --ignore-unused-allowlist

build: $(VENV)/.build ## compile the messages and the extensions in place
	$(BIN)/python setup.py --quiet build_ext --inplace

sanitize: $(VENV)/.build $(VENV)/.test ## run the tests of the extensions under the address and undefined-behaviour sanitizers
	TENSOR_RUNTIME_SANITIZE=1 $(BIN)/python setup.py --quiet build --build-lib $(SANITIZED)/lib --build-temp $(SANITIZED)/temp
	$(SANITIZER_ENV) $(BIN)/python -c 'import runtime._ext.errors as e; assert "/$(SANITIZED)/" in e.__file__, e.__file__'
	$(SANITIZER_ENV) $(BIN)/python -m pytest -p no:cacheprovider --capture=sys --timeout 600 $(SANITIZE_TESTS)

clean: ## remove what the other targets made, the environment included
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f runtime/_ext runtime/proto runtime/bench proto/descriptors.binpb
	find _ext proto bench runtime tests examples -name '*.so' -delete -o -name '*_pb2.pyi' -delete -o -name '*.pyc' -delete

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# What builds the package, once in the environment rather than in a new one for each build.
$(VENV)/.build: $(VENV)/.made pyproject.toml
	$(PIP) $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
	touch $@

$(VENV)/.run: $(VENV)/.build setup.py pyproject.toml
	$(EDITABLE) '.[examples]'
	touch $@

$(VENV)/.test: $(VENV)/.build setup.py pyproject.toml
	$(EDITABLE) '.[test,examples]'
	@install() { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		apt-get install -q -y --no-install-recommends "$$@"; }; \
	command -v bwrap >/dev/null || install bubblewrap || \
		echo "bubblewrap is not there and cannot be installed: the tests of the sandbox will say so"; \
	command -v podman >/dev/null || install podman catatonit runc busybox-static || \
		echo "podman is not there and cannot be installed: the tests of containers will say so"
	touch $@

$(VENV)/.bench: $(VENV)/.build setup.py pyproject.toml
	$(EDITABLE) '.[bench]'
	touch $@

$(VENV)/.lint: $(VENV)/.build setup.py pyproject.toml
	$(EDITABLE) '.[lint]'
	touch $@
