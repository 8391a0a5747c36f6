# make book     the rendered book, its opening chapter run live      → _build/html/index.html
# make test     style, unit tests, doctests, then every chapter with nbval
# make slow     the tests that take minutes: a run killed again and again
# make execute  run every chapter and store its outputs in place, before a commit
# make bench    measure speed and store the results that the book's page on speed shows, on a quiet machine
# make clean    what the others made
#
# Each makes .venv if it is not there. PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHAPTERS := $(wildcard book/*.ipynb)
# The chapter that `make book` and nbval run at the profile `quick`; the others use `ci` in tests.
OPENING := book/mnist.ipynb

# No progress bars in stored outputs: as widgets they would need a script from another host.
export TQDM_DISABLE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: book test slow execute bench clean
.DELETE_ON_ERROR:

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "Python %d.%d is too old: call make PYTHON=python3.11 or newer" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[book,test]'
	@touch $@

# The sources are copied, so that running the chapter leaves the stored outputs as they are.
book: $(VENV)/installed
	rm -rf _build
	mkdir -p _build/source
	cp -r _config.yml _toc.yml book _build/source
	FLOWINV_PROFILE=quick $(BIN)/python book/execute.py _build/source/$(OPENING)
	$(BIN)/jupyter-book build --quiet -n -W --keep-going --path-output . _build/source
	$(BIN)/python -c 'import jupyter_server_mathjax as m, os, shutil; \
	    shutil.copytree(os.path.join(os.path.dirname(m.__file__), "static"), "_build/html/_static/mathjax")'
	@echo "The book is in $(CURDIR)/_build/html/index.html"

test: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report
	FLOWINV_PROFILE=quick $(BIN)/python -m pytest --nbval-lax $(OPENING)
ifneq ($(filter-out $(OPENING),$(CHAPTERS)),)
	FLOWINV_PROFILE=ci $(BIN)/python -m pytest --nbval-lax $(filter-out $(OPENING),$(CHAPTERS))
endif

slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

execute: $(VENV)/installed
	FLOWINV_PROFILE=quick $(BIN)/python book/execute.py $(CHAPTERS)

bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	for script in $(filter-out benchmarks/harness.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit; done

clean:
	rm -rf _build $(VENV) .coverage .pytest_cache .ruff_cache dist
