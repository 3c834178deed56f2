# make demo: the main job on the embedded puzzle.  make test: everything that is checked.
# Both build .venv first when it is missing or the pinned parts have changed.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test format docs clean
.DEFAULT_GOAL := test

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "expected Python 3.11 or newer, got `$(PYTHON) --version`; run: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/simgan-captcha demo

# The tests of the pages need a browser.
$(VENV)/browser: $(VENV)/installed
	$(BIN)/python tests/web/browser.py
	touch $@

test: $(VENV)/browser
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/installed
	$(BIN)/python docs/write_configuration.py

clean:
	rm -rf $(VENV) build dist demo-run
