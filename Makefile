# What there is to do with this tree. `make demo` and `make test` each make what they need; a second call is quick.
.DEFAULT_GOAL := help
.PHONY: help venv dev tools lint types test test-long bench demo delve-tests clean
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(PYTHON) -m pip install --quiet
# What .venv and .cache/bin hold comes first; Debian's capsh is in sbin.
WITH := PATH="$(CURDIR)/.venv/bin:$(CURDIR)/.cache/bin:$$PATH:/usr/sbin:/sbin"
PYTEST := $(WITH) SAFEDLV_TEST_DLV="$(CURDIR)/.cache/bin/dlv" SAFEDLV_TEST_DLV_OLD="$(CURDIR)/.cache/bin/dlv-1.20" \
	$(PYTHON) -m pytest $(ARGS)

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: .venv/.installed  ## the whole story on this machine: a server debugged, three denied attaches mended, a container from beside it
	@tests/tools.sh demo
	@$(WITH) $(PYTHON) examples/demo

test: dev tools lint types  ## install what the tests need and run them all; ARGS="-k NAME" for some
	@echo "== tests; those of tests/unit meanwhile, in .cache/unit.txt"
	@$(PYTEST) tests/unit >.cache/unit.txt 2>&1 & unit=$$!; \
	$(PYTEST) --ignore=tests/unit; rest=$$?; wait $$unit; unit=$$?; \
	if [ $$unit = 0 ] || [ $$unit = 5 ]; then tail -n 1 .cache/unit.txt; else cat .cache/unit.txt; exit $$unit; fi; \
	[ $$rest != 5 ] || [ $$unit = 5 ] || exit 0; exit $$rest # 5: none was chosen

test-long: dev tools  ## the tests with every trial at its full count
	@echo "== tests, the longest trials at full count"
	@SAFEDLV_LONG=1 $(PYTEST) --timeout=3600

delve-tests: dev tools  ## Delve's own tests with shims/dlv in the place of dlv (minutes); ARGS="--suite cmd" for some
	@$(WITH) SAFEDLV_TEST_DLV="$(CURDIR)/.cache/bin/dlv" $(PYTHON) -m tests.delve $(ARGS)

lint: dev  ## ruff
	@echo "== ruff"
	@$(PYTHON) -m ruff check

types: dev  ## mypy
	@echo "== mypy"
	@$(PYTHON) -m mypy
	@$(PYTHON) -m mypy examples/demo/*.py
	@$(PYTHON) -m mypy shims/dlv

bench: dev tools  ## measure safedlv beside dlv
	@$(WITH) $(PYTHON) -m tests.bench $(ARGS)

venv: .venv/.installed  ## .venv with safedlv in it
dev: .venv/.dev  ## .venv with what the tests and linters need, too
tools:  ## find or install Go, dlv and what the tests use, into .cache/bin where possible
	@tests/tools.sh test

# pip 25.1 is the first with --group, and the first whose console scripts start without importing re.
.venv/.installed: pyproject.toml
	@echo "== making .venv with safedlv in it (half a minute where nothing is cached) ..."
	@python=$$(tests/tools.sh python) && "$$python" -m venv --clear .venv
	@$(PIP) 'pip>=25.1'
	@$(PIP) --editable .
	@touch $@

.venv/.dev: .venv/.installed
	@echo "== installing what the tests and linters need into .venv ..."
	@$(PIP) --group test --group lint
	@touch $@

clean:  ## remove everything that was made here
	rm -rf .venv .cache dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
