# All that a developer or CI runs. `make help` lists it; the recipes are short enough to be the documentation.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check
STAMPS := .venv/stamps
PROTO := $(shell find proto -name '*.proto' 2>/dev/null)
NATIVE := setup.py $(wildcard engine/*.pyx engine/*.pxi engine/*.pxd engine/*.h engine/load/*.pxi)
PROBES := $(wildcard tests/probes/*.pyx bench/*.pyx)
CHECKED := engine clients/python bench tests scripts setup.py

# Tests start hundreds of processes, which find modules compiled also where Python was told to leave none behind. Tests
# go by whole files, so that what a file's tests share is made once; tests/conftest.py puts the longest first.
TOGETHER := --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Two shells may build one tree at the same time; the lock lets one of them wait instead of breaking both.
LOCKED = @mkdir -p build && flock build/.lock $(MAKE)

.PHONY: help build demo test check bench kills proto fuzz fuzz-native
.PHONY: faults test-asan test-debug test-long coverage lock sbom clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## make .venv, the stubs and the native core; takes no time when nothing changed
	$(LOCKED) $(STAMPS)/native $(STAMPS)/project

demo: build ## build, then see it take orders
	.venv/bin/everopen demo

test: build ## build, then run the tests in their ordinary budget: two at a time, then those that must be alone
	$(LOCKED) $(STAMPS)/probes
	$(PYTHON) -m compileall -q engine clients/python bench tests
	rm -f build/test.codes
	together=0; alone=0; $(PYTHON) -m pytest tests -m "not long and not alone" $(TOGETHER) || together=$$?; \
	$(PYTHON) -m pytest tests -m "alone and not long" || alone=$$?; \
	echo $$together $$alone >build/test.codes; test "$$together $$alone" = "0 0"

check: build ## lint, types and tidiness
	$(PYTHON) -m ruff check $(CHECKED)
	$(PYTHON) -m ruff format --check $(CHECKED)
	$(PYTHON) -m mypy
	.venv/bin/cython-lint --no-pycodestyle engine tests/probes bench
	scripts/lint_proto.sh
	$(PYTHON) -m pytest tests/test_tidy.py

bench: build ## measure; each file of bench/ states load, machine and exclusions
	$(LOCKED) $(STAMPS)/probes
	$(PYTHON) -m bench

kills: build ## kill EVEROPEN_KILLS processes (500) under load, then read the log for what was lost or doubled
	$(PYTHON) -m bench.kills

proto: ## regenerate the Python stubs from proto/
	$(LOCKED) --always-make $(STAMPS)/proto

fuzz: build ## feed the decoders and the state machine random input; EVEROPEN_FUZZ_SECONDS sets how long
	$(LOCKED) $(STAMPS)/probes
	HYPOTHESIS_PROFILE=long EVEROPEN_FUZZ_SECONDS=$${EVEROPEN_FUZZ_SECONDS:-60} $(PYTHON) -m pytest tests/fuzz

fuzz-native: build ## libFuzzer with sanitizers on wire, front, journal and snapshots; EVEROPEN_FUZZ_SECONDS (60) each
	EVEROPEN_FUZZ_SECONDS=$${EVEROPEN_FUZZ_SECONDS:-60} scripts/variant.sh fuzz

faults: build ## kill, freeze and starve real processes under concurrent callers; EVEROPEN_FAULT_MINUTES sets how long
	$(PYTHON) -m tests.faults.rounds

torture: build ## the simulated faults by the hour; EVEROPEN_TORTURE_HOURS sets how many, EVEROPEN_SEED where it begins
	.venv/bin/everopen torture --seed $${EVEROPEN_SEED:-1000000} --hours $${EVEROPEN_TORTURE_HOURS:-1}

test-asan: build ## the suites of the native core under the address and undefined-behaviour sanitizers
	scripts/variant.sh asan -m "not long"

test-debug: build ## the same with bounds checks in the core
	scripts/variant.sh debug -m "not long"

test-long: build ## the tests that take minutes
	$(LOCKED) $(STAMPS)/probes
	HYPOTHESIS_PROFILE=long $(PYTHON) -m pytest tests -m long

coverage: build ## line coverage of Python and nogil code
	scripts/variant.sh coverage -m "not long"

lock: ## resolve requirements.lock anew from pyproject.toml
	scripts/lock.sh

sbom: build ## list all that is inside, as CycloneDX in build/sbom.json
	test -x build/sbom/bin/python || python3 -m venv build/sbom
	build/sbom/bin/python -m pip --disable-pip-version-check install -qq --require-hashes -r scripts/sbom.lock
	build/sbom/bin/python scripts/sbom.py $(PYTHON) build/sbom.json

clean: ## remove what a build made; .venv goes too
	rm -rf .venv build *.egg-info tools/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find engine tests/probes bench -name '*.so' -delete
	find engine clients bench tests scripts -name __pycache__ -prune -exec rm -rf {} +

# What follows makes files. A stamp is touched only when its recipe went well.

$(STAMPS)/packages: requirements.lock scripts/system_packages.sh
	scripts/system_packages.sh
	test -x $(PYTHON) || python3 -m venv .venv
	echo 'installing the packages of requirements.lock'
	$(PIP) install -qq --require-hashes -r requirements.lock
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/proto: $(PROTO) scripts/generate_stubs.py $(STAMPS)/packages
	$(PYTHON) scripts/generate_stubs.py clients/python
	touch $@

$(STAMPS)/native: $(NATIVE) $(STAMPS)/packages
	$(PYTHON) setup.py --quiet build_ext --inplace
	touch $@

$(STAMPS)/probes: $(PROBES) $(STAMPS)/native
	EVEROPEN_PROBES=1 $(PYTHON) setup.py --quiet build_ext --inplace
	touch $@

# The editable install comes after the core, so that it finds the extension fresh and builds nothing twice.
$(STAMPS)/project: pyproject.toml $(STAMPS)/proto $(STAMPS)/native
	$(PIP) install -qq --no-deps --no-build-isolation --editable .
	touch $@
