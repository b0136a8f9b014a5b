# Two commands do everything on a fresh machine with Python 3.11 or newer and a C compiler:
#   make demo     a bank's day over HTTP, audited offline, a kill in the middle, and nothing is lost
#   make test     the tests
# The environment is made in .venv by the first of them; a second run only builds what changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
MADE := $(VENV)/.made
BUILT := $(VENV)/.built
SOURCES := setup.py $(wildcard ledger/*.pyx ledger/*.pxd)
JUNIT ?=

# The first Python that is new enough; PYTHON=... on the command line is tried before all others.
FIND_PYTHON := for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python"; exit 0; fi; done; exit 1
REQUIRES := import tomllib; project = tomllib.load(open("pyproject.toml", "rb")); \
	print(*project["build-system"]["requires"], *project["project"]["dependencies"], \
	*project["project"]["optional-dependencies"]["dev"], sep="\n")
HAS_HEADERS := import os, sysconfig, sys; \
	sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))

.PHONY: help
help:
	@echo 'make demo       a bank day over HTTP, audited offline, killed in the middle, checked'
	@echo 'make test       the tests (minutes)'
	@echo 'make test-long  the long runs: kill loops, power loss, random requests (hours)'
	@echo 'make bench      the bench suite; BENCH="engine --accounts 10000 ..." for one run'
	@echo 'make lint       ruff, mypy, cython-lint, generated files'
	@echo 'make debug      the tests on a build with bounds checks and sanitizers'
	@echo 'make build      the environment in .venv and the compiled modules, nothing more'
	@echo 'make clean      remove what the others made'

# The environment holds what pyproject.toml asks for; the package itself is used where it lies.
$(MADE): pyproject.toml
	@python=$$($(FIND_PYTHON)) || \
	  { echo 'sanyuan needs Python 3.11 or newer: apt-get install python3 (or make PYTHON=...)' >&2; exit 1; }; \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "sanyuan needs Python's venv module: apt-get install python3-venv" >&2; exit 1; }; \
	"$$python" -c '$(HAS_HEADERS)' || \
	  { echo "sanyuan needs Python's headers: apt-get install python3-dev" >&2; exit 1; }; \
	compiler=$${CC:-cc}; command -v "$${compiler%% *}" >/dev/null || command -v gcc >/dev/null || \
	  { echo 'sanyuan needs a C compiler: apt-get install gcc libc6-dev' >&2; exit 1; }; \
	$(BIN)/python -c '' 2>/dev/null || { \
	  echo "Making the environment in $(VENV) with $$("$$python" -V): once, a few minutes"; \
	  "$$python" -m venv --clear $(VENV); }
	@$(BIN)/python -c '$(REQUIRES)' > $(VENV)/requirements.new
	@cmp -s $(VENV)/requirements.new $(VENV)/requirements.txt || { \
	  $(BIN)/python -m pip install -q --disable-pip-version-check -r $(VENV)/requirements.new; \
	  mv $(VENV)/requirements.new $(VENV)/requirements.txt; }
	@pwd > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sanyuan.pth"
	@printf '#!%s\nfrom ledger.cli import main\n\nmain(prog_name="sanyuan")\n' \
	  "$$PWD/$(BIN)/python" > $(BIN)/sanyuan
	@chmod +x $(BIN)/sanyuan
	@touch $@

# The compiler's warnings are kept in a file, and shown when it fails.
$(BUILT): $(MADE) $(SOURCES)
	@echo 'Compiling'
	@$(BIN)/python setup.py -q build_ext --inplace -j 2 > $(VENV)/build.log 2>&1 || \
	  { tail -n 40 $(VENV)/build.log >&2; exit 1; }
	@touch $@

.PHONY: build
build: $(BUILT)

.PHONY: demo
demo: $(BUILT)
	@$(BIN)/sanyuan demo $(DEMO)

.PHONY: test
test: $(BUILT)
	@$(BIN)/python -m pytest $(if $(JUNIT),--junitxml=$(JUNIT)) $(TESTS)

.PHONY: test-long
test-long: $(BUILT)
	@$(BIN)/python -m pytest -m long --timeout=0 $(TESTS)

.PHONY: bench
bench: $(BUILT)
	@$(BIN)/sanyuan bench $(if $(BENCH),$(BENCH),--help)

.PHONY: lint
lint: $(BUILT)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint ledger/*.pyx ledger/*.pxd
	@$(BIN)/python tools/generate.py --check

# The same tests on modules with bounds checks and with address and undefined-behaviour sanitizers,
# which live in build/debug, beside the fast ones. Left out: what preloads a library of its own, and
# what reads sources. Python itself leaks on purpose at exit.
.PHONY: debug
debug: $(BUILT)
	@SANYUAN_DEBUG=1 $(BIN)/python setup.py -q build --build-base build/debug \
	  --build-lib build/debug/lib > $(VENV)/debug.log 2>&1 || { tail -n 40 $(VENV)/debug.log >&2; exit 1; }
	@PYTHONPATH=$(CURDIR)/build/debug/lib:$(CURDIR) PYTHONSAFEPATH=1 SANYUAN_DEBUG=1 \
	  LD_PRELOAD=$$($${CC:-cc} -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  $(BIN)/pytest --import-mode=append --ignore tests/crash/test_power_loss.py \
	  --ignore tests/crash/test_recording.py --ignore tests/unit/test_tidy.py $(TESTS)

.PHONY: clean
clean:
	@rm -rf $(VENV) build dist *.egg-info ledger/*.c ledger/*.so .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
