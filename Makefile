# `make demo` and `make test` set everything up; the other targets are for development.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export JAX_PLATFORMS ?=

.PHONY: demo test lint slow docs clean

# Python compiles what it imports: compiling all that is installed takes half a minute.
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# Installed once per change of setup.py; the stamps remember.
$(VENV)/.installed: setup.py | $(BIN)/pip
	$(INSTALL) .
	touch $@

$(VENV)/.installed-test: setup.py | $(BIN)/pip
	$(INSTALL) '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(INSTALL) '.[lint]'
	touch $@

$(VENV)/.installed-slow: $(VENV)/.installed-lint
	$(INSTALL) '.[slow]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/ssl_jax train --config=simclr:digits --workdir=runs/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Three workers for two cores: many of these tests wait for other processes.
slow: $(VENV)/.installed-slow
	$(BIN)/python -m pytest -m slow -n 3 --dist loadfile --no-loadscope-reorder

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) '.[docs]'
	touch $@

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build *.egg-info
