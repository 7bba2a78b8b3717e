# `make demo` and `make test` set everything up; the other targets are for development.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export JAX_PLATFORMS ?=

.PHONY: demo test lint slow docs clean

# Installed once per change of setup.py; the stamp remembers.
$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/ssl_jax train --config=simclr:digits --workdir=runs/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build *.egg-info
