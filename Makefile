# Every command sets up what it needs by itself; nothing is assumed but Python (3.11 or newer) and make.

PYTHON ?= python3
ARGS ?=
NAME ?=

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
DOCS := $(VENV)/.docs
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Installs what the lock files name: whatever has none of their hashes is refused.
LOCKED := $(PIP) --require-hashes
LOCKS := requirements.lock requirements-stores.lock requirements-dev.lock requirements-docs.lock
# Resolves for all platforms and every Python from 3.11 on, with the hashes of all files of a release; BESIDE leaves out what
# other lock files have for all platforms, and takes their versions.
COMPILE = build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
BESIDE = pyproject.toml $(1:%=-c build/lock/%.lock) \
  $$(sed -n 's/^\([A-Za-z0-9._-]*\)==[^;]*$$/--no-emit-package \1/p' $(1:%=build/lock/%.lock))
# Three at a time, also on two processors: for two thirds of their time the tests wait for something that takes its time.
JOBS ?= 3
# The suites that `make coverage` runs: those of the rooms on the way of a message, and those that need no browser.
COVERED := $(addprefix tests/,engine links protocols rules sessions support security contract http_api events reports test_hub.py test_small_verbs.py)

.DEFAULT_GOAL := help
.PHONY: help setup serve example test test-slow coverage lint types trace bench check docs screenshots page-types dist lock

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV) ## Set up .venv with everything for development

serve: $(RUNTIME) ## Run the server on http://127.0.0.1:8000 (PORT=8001, ARGS="--workers 2")
	@export FASTAPI_ENV="$${FASTAPI_ENV:-development}" && exec $(BIN)/tidewire serve $(if $(PORT),--port $(PORT)) $(ARGS)

example: $(DEV) ## Run an example (NAME=chat, BROKER=redis://localhost:6379, PORT=8001, ARGS="--workers 2")
	@test -f examples/$(NAME)/app.py || { echo "make example NAME=...: one of $(notdir $(patsubst %/app.py,%,$(wildcard examples/*/app.py)))"; exit 1; }
	@cd examples/$(NAME) && exec ../../$(BIN)/tidewire run app:app $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(DEV) ## Run the whole test suite but for the slow tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

test-slow: $(DEV) ## Run the slow tests
	$(BIN)/python -m pytest -m slow $(ARGS)

coverage: $(DEV) ## Measure the branch coverage of engine, links, protocols, rules and sessions
	@rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/python -m coverage run -m pytest -n $(JOBS) --dist loadgroup $(COVERED) $(ARGS)
	$(BIN)/python -m coverage run -m pytest -m slow tests/links/test_server_pings.py
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=95

lint: $(DEV) ## Check format, style, words, and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest tests/test_layers.py tests/test_words.py

types: $(DEV) ## Check the types, inside and as a user sees them
	$(BIN)/mypy --strict src
	$(BIN)/python .ci/public_types.py

trace: $(DEV) ## Print the way of one message through the files
	$(BIN)/python -m tests.helpers.tracing $(ARGS)

bench: $(DEV) ## Measure; see bench/
	$(BIN)/python bench/sqlite_publish.py
	$(BIN)/python bench/sqlite_publish.py --processes 2
	$(BIN)/python -m bench.stores
	$(BIN)/python -m bench $(ARGS)

bench-quick: $(DEV) ## Measure the most in five minutes; fails where a ratio to a peer has become worse
	$(BIN)/python -m bench --quick $(ARGS)

bench-peers: $(DEV) ## Install and build the peers that are measured beside ours
	bench/peers/setup.sh

check: lint types test ## Everything before a commit

docs: $(DOCS) ## Build the site into build/site, and check its links, anchors and search
	$(BIN)/python .ci/site.py

screenshots: $(DEV) ## Take the pictures of the pages and examples (docs/pictures)
	$(BIN)/python .ci/screenshots.py

page-types: $(DEV) ## Write the types that the chat's page is checked by
	$(BIN)/python .ci/page_types.py

dist: $(DEV) ## Build a wheel and an sdist, and check both in clean environments
	$(BIN)/python .ci/dist.py

lock: ## Take the newest versions that pyproject.toml allows into the lock files
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	printf 'hatchling\nhatch-fancy-pypi-readme\neditables\n' | $(COMPILE) --extra metrics pyproject.toml - -o build/lock/requirements.lock
	$(COMPILE) --all-extras $(call BESIDE,requirements) -o build/lock/requirements-stores.lock
	$(COMPILE) --all-extras --group dev $(call BESIDE,requirements requirements-stores) -o build/lock/requirements-dev.lock
	$(COMPILE) --all-extras --group dev --group docs \
	  $(call BESIDE,requirements requirements-stores requirements-dev) -o build/lock/requirements-docs.lock
	for file in $(LOCKS); do { sed -n '/^#/p' $$file; cat build/lock/$$file; } > build/new && mv build/new $$file; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "tidewire needs Python 3.11 or newer as $(PYTHON); install it, or name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(RUNTIME): $(BIN)/python requirements.lock pyproject.toml
	@echo "setting up $(VENV) ..."
	@$(LOCKED) -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): $(RUNTIME) requirements-stores.lock requirements-dev.lock
	@echo "adding the development tools ..."
	@$(LOCKED) -r requirements.lock -r requirements-stores.lock -r requirements-dev.lock
	@touch $@

$(DOCS): $(DEV) requirements-docs.lock
	@echo "adding the tools of the site ..."
	@$(LOCKED) $(LOCKS:%=-r %)
	@touch $@
