# Every target makes what it needs in .venv and then runs; `make` alone lists them.

PYTHON       ?= python3
TEST_TIMEOUT ?= 300
TEST_WORKERS ?= auto
NB_TIMEOUT   ?= 300
# Where the demo writes (its own default when empty), and the torch that constraints.txt pins.
DEMO_OUT     ?=
TORCH        := 2.13.0

VENV := .venv
BIN  := $(VENV)/bin
SAY  := @printf '\n[xgeocat] %s\n'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test slow lint types layers notebooks bench constraints clean FORCE

help: ## list the targets
	@printf 'usage: make TARGET [PYTHON=python3.12]\n\n'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.stamp-plot ## run the demo (DEMO_OUT=folder to say where it writes)
	$(SAY) "running the demo"
	@$(BIN)/xgeocat demo $(if $(DEMO_OUT),--out "$(DEMO_OUT)")

test: $(VENV)/.stamp-test ## run the tests, the slow ones left out
	$(SAY) "running the tests"
	@$(BIN)/python -m pytest -m "not slow" --timeout=$(TEST_TIMEOUT) -n $(TEST_WORKERS) --dist worksteal

slow: $(VENV)/.stamp-test ## run the slow tests
	$(SAY) "running the slow tests"
	@$(BIN)/python -m pytest -m slow --timeout=$(TEST_TIMEOUT) || { \
	  rc=$$?; [ $$rc -eq 5 ] || exit $$rc; echo "there are no slow tests"; }

lint: $(VENV)/.stamp-dev ## check style and formatting (ruff)
	$(SAY) "checking style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.stamp-dev ## check types (mypy)
	$(SAY) "checking types"
	@$(BIN)/mypy

layers: $(VENV)/.stamp-dev ## check that imports point down (import-linter)
	$(SAY) "checking that imports point down"
	@$(BIN)/lint-imports

# The notebooks run in a copy of their folder, so that nothing they write lands in the repository.
# One that runs longer than NB_TIMEOUT seconds is stopped, and counts as failed.
notebooks: $(VENV)/.stamp-notebooks ## run every notebook, in a temporary folder
	$(SAY) "running the notebooks"
	@out=$$(mktemp -d) || exit 1; \
	trap 'rm -rf "$$out"' EXIT; trap 'exit 130' INT TERM; \
	[ ! -d notebooks ] || cp -R notebooks/. "$$out"; \
	bin=$$(cd $(BIN) && pwd); total=0; failed=''; \
	for nb in "$$out"/*.ipynb; do \
	  [ -e "$$nb" ] || break; \
	  name=$${nb##*/}; total=$$((total + 1)); start=$$(date +%s); \
	  echo "$$name: running (at most $(NB_TIMEOUT) s)"; \
	  if PATH="$$bin:$$PATH" "$$bin/python" -c "$$RUN_FOR" $(NB_TIMEOUT) "$$bin/jupyter" execute \
	      --inplace --kernel_name=python3 "$$nb"; \
	  then echo "$$name: done in $$(( $$(date +%s) - start )) s"; \
	  else echo "$$name: FAILED after $$(( $$(date +%s) - start )) s"; failed="$$failed $$name"; fi; \
	done; \
	echo "$$total notebooks$${failed:+; failed:$$failed}"; [ -z "$$failed" ]

# RUN_FOR SECONDS COMMAND...: the exit status of the command, or 124 when it ran out of time.
define RUN_FOR
import subprocess, sys
try:
    code = subprocess.run(sys.argv[2:], timeout=float(sys.argv[1])).returncode
except subprocess.TimeoutExpired:
    sys.exit("stopped: still running after " + sys.argv[1] + " s")
sys.exit(1 if code else 0)
endef
export RUN_FOR

bench: $(VENV)/.stamp-test ## run every benchmarks/bench_*.py
	$(SAY) "running the benchmarks"
	@total=0; for f in benchmarks/bench_*.py; do \
	  [ -e "$$f" ] || break; \
	  total=$$((total + 1)); echo "$$f"; $(BIN)/python "$$f" || exit 1; \
	done; echo "$$total benchmarks"

# ------------------------------------------------------------------------------ the environment
#
# .venv/.stamp-EXTRA says that xgeocat[EXTRA] is installed as pyproject.toml and constraints.txt ask.
# Installing an extra never takes another away, and a wider one stamps those it contains.

WITHIN_plot      :=
WITHIN_test      := plot
WITHIN_notebooks := plot
WITHIN_dev       := plot test notebooks
EXTRAS           := plot test notebooks dev

$(EXTRAS:%=$(VENV)/.stamp-%): $(VENV)/.stamp-%: $(VENV)/.stamp-python pyproject.toml constraints.txt
	$(SAY) "installing xgeocat[$*] into $(VENV) (the first time takes a minute or two)"
	@$(BIN)/python -m pip --require-virtualenv install --disable-pip-version-check \
	  -c constraints.txt -e '.[$*]'
	@touch $(addprefix $(VENV)/.stamp-,$(WITHIN_$*) $*)

# The stamp holds the folder: an environment that was moved or copied still points to the old one.
ifneq ($(shell cat $(VENV)/.stamp-python 2>/dev/null),$(CURDIR))
$(VENV)/.stamp-python: FORCE
endif

$(VENV)/.stamp-python:
	@if [ ! -e $@ ] && $(BIN)/python -c "$$OWN_PREFIX; $$NEW_ENOUGH" 2>/dev/null \
	    && $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  printf '\n[xgeocat] using the %s that is here\n' $(VENV); \
	else \
	  printf '\n[xgeocat] making %s with %s\n' $(VENV) "$(PYTHON)"; \
	  $(call CHECK_PYTHON,$(PYTHON)); \
	  if $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
	    $(PYTHON) -m venv --clear $(VENV); \
	  elif $(PYTHON) -m virtualenv --version >/dev/null 2>&1; then \
	    $(PYTHON) -m virtualenv --clear $(VENV); \
	  else \
	    { echo "$(PYTHON) ($$($(PYTHON) -V 2>&1)) cannot make a virtual environment: it has no ensurepip."; \
	      echo "Debian and Ubuntu keep it in a package of its own; install it and try again:"; \
	      echo "    apt install python3-venv"; \
	      echo "or choose another Python: make PYTHON=python3.12 $(MAKECMDGOALS)"; } >&2; \
	    exit 1; \
	  fi; \
	fi
	@printf '%s\n' '$(CURDIR)' > $@

# The second says that a Python is that of an environment, not the system's behind a link.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
OWN_PREFIX := import sys; sys.prefix != sys.base_prefix or sys.exit(1)
export NEW_ENOUGH OWN_PREFIX

define CHECK_PYTHON
  if ! command -v $(1) >/dev/null 2>&1; then \
    echo "xgeocat needs Python 3.11 or newer; there is no '$(1)' here." >&2; old=1; \
  elif ! $(1) -c "$$NEW_ENOUGH"; then \
    echo "xgeocat needs Python 3.11 or newer; found $$($(1) -V 2>&1) at $$(command -v $(1))." >&2; old=1; \
  else old=0; fi; \
  if [ $$old = 1 ]; then \
    for p in python3.13 python3.12 python3.11; do \
      if $$p -c '' >/dev/null 2>&1; then \
        echo "There is a $$p here: make PYTHON=$$p $(MAKECMDGOALS)" >&2; break; fi; \
    done; \
    exit 1; \
  fi
endef

# Made with the oldest Python that xgeocat runs on, so that every pin can be installed there.
constraints: ## make constraints.txt anew from pyproject.toml (needs Python 3.11)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "the pins are made with Python 3.11, the oldest that xgeocat runs on;" \
	       "found $$($(PYTHON) -V 2>&1): make PYTHON=python3.11 constraints" >&2; exit 1; }
	$(SAY) "resolving xgeocat[dev,s3] in a fresh environment"
	@tmp=$$(mktemp -d) || exit 1; \
	trap 'rm -rf "$$tmp"' EXIT; trap 'exit 130' INT TERM; set -e; \
	$(PYTHON) -m venv "$$tmp/venv"; \
	"$$tmp/venv/bin/python" -m pip --require-virtualenv install --disable-pip-version-check '.[dev,s3]'; \
	"$$tmp/venv/bin/python" -m pip list --format=freeze --disable-pip-version-check \
	  --exclude xgeocat --exclude pip --exclude setuptools --exclude wheel > "$$tmp/pins"; \
	echo 'torch==$(TORCH)' >> "$$tmp/pins"; \
	{ echo '# The versions that xgeocat is tested with: xgeocat[dev,s3] on Python 3.11, and torch.'; \
	  echo '# Made by a machine; to make it anew after a change in pyproject.toml: make constraints'; \
	  LC_ALL=C sort -f "$$tmp/pins"; } > "$$tmp/constraints.txt"; \
	cp "$$tmp/constraints.txt" constraints.txt
	@echo "constraints.txt has $$(grep -c == constraints.txt) pins"

clean: ## remove everything that make made: .venv, caches, builds, the demo's output
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf build dist _site lake-tahoe-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

FORCE:
