# make demo: the main job on the embedded puzzle.  make test: everything that is checked.
# make test-fast: format, lint and the tests that train nothing, in under a minute.
# make bench: the benchmarks that take minutes.  make bench-all: all evidence of README and docs, for days.
# All build .venv first when it is missing or the pinned parts have changed.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-fast bench bench-all pretrain pretrain-fonts rivals format docs dist clean
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

# Tests that train nothing and wait for no server.
FAST := tests/config tests/simulator \
	$(addprefix tests/data/test_,background.py batch.py foreground.py images.py left_out.py pictures.py store.py) \
	$(addprefix tests/evaluation/test_,audit_words.py labels.py) \
	$(addprefix tests/generalist/test_,decoding.py survey.py) \
	$(addprefix tests/inference/test_,readings.py sources.py) \
	$(addprefix tests/pipeline/test_,manifest.py progress.py run_folder.py) \
	tests/pipeline/test_questions.py \
	$(addprefix tests/test_,addresses.py atomic.py docs.py documents.py import_walls.py interrupts.py scheme.py shown.py)

test-fast: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(FAST)

# Rivals have an environment of their own, so that theirs cannot change ours. Tesseract itself is
# the system's, as Debian's package tesseract-ocr.
.venv-rivals/installed: benchmarks/rivals.txt
	$(PYTHON) -m venv .venv-rivals
	.venv-rivals/bin/python -m pip install --quiet --requirement benchmarks/rivals.txt
	touch $@

# For benchmarks/zero_shot.py.
rivals: .venv-rivals/installed

# On the demo's run, or another: make bench RUN=folder
RUN ?= demo-run
bench: $(VENV)/installed .venv-rivals/installed
	test -d $(RUN) || $(BIN)/simgan-captcha demo $(RUN)
	$(BIN)/python benchmarks/bench.py --run $(RUN) --rivals .venv-rivals/bin/python

# Stop it and start it again at will. What it costs: make bench-all ARGS=--plan. The results of other
# commits: make bench-all ARGS=--check. More arguments: .venv/bin/python benchmarks/bench_all.py --help
WORK ?= bench-work
bench-all: $(VENV)/installed
	$(BIN)/python benchmarks/bench_all.py $(WORK) $(ARGS)

# Trains the generalist on synthetic images alone, for days on two cores; stop it and start it again
# at will. Its fonts are Debian's packages; the repository holds only their list.
FONTS := src/simgan_captcha/simulator/wide/fonts.tsv
PRETRAINING ?= pretraining
pretrain: $(VENV)/installed
	nice -n 19 $(BIN)/python -m simgan_captcha.generalist.pretraining $(PRETRAINING)

pretrain-fonts:
	apt-get install --yes --no-install-recommends `cut -f 2 $(FONTS) | tail -n +2 | sort -u`

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Open build/site/index.html.
docs: $(VENV)/installed
	$(BIN)/python docs/write_configuration.py
	$(BIN)/python docs/write_commands.py
	$(BIN)/python docs/write_site.py

# The wheel and the source archive, in dist/.
dist: $(VENV)/installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) .venv-rivals .cache build dist demo-run
