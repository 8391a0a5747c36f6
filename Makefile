# make book     the rendered book, the chapter on digits run live     → _build/html/index.html
# make serve    the rendered book while it is written: what changes is rendered again, pages reload
# make check    the rendered pages in Chromium: links, errors, weight, accessibility, sliders, search
# make pdf      the rendered book as one file, by Chromium → _build/html/flowinv.pdf
# make links    the addresses that the book links to outside
# make test     style, unit tests, doctests, then every chapter with nbval
# make slow     the tests that take minutes: killed runs, all rows, every chapter as on Colab
# make lowest   the package's tests with the lowest versions that pyproject.toml allows
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
LIVE := book/mnist.ipynb

# No progress bars in stored outputs: as widgets they would need a script from another host.
export TQDM_DISABLE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A thread that waits sleeps. Else, beside other busy programs, threads wait for each other awake.
export OMP_WAIT_POLICY := passive

# All but those of chapters, pages and project files, which need what renders the book.
PACKAGE_TESTS := $(filter-out tests/test_book.py tests/test_project.py tests/test_pages.py,$(wildcard tests/test_*.py))

.PHONY: book serve check pdf links test slow lowest execute bench clean
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
	FLOWINV_PROFILE=quick $(BIN)/python book/execute.py _build/source/$(LIVE)
	$(BIN)/jupyter-book build --quiet -n -W --keep-going --path-output . _build/source
	@echo "The book is in $(CURDIR)/_build/html/index.html"

serve: $(VENV)/installed
	$(BIN)/python book/serve.py

check: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[check]'
	$(BIN)/python -m pytest -m check -rs tests/test_pages.py

pdf: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[check]'
	$(BIN)/python book/pdf.py

links: $(VENV)/installed
	rm -rf _build/source
	mkdir -p _build/source
	cp -r _config.yml _toc.yml book _build/source
	$(BIN)/jupyter-book build --builder linkcheck --path-output . _build/source

test: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report
	FLOWINV_PROFILE=quick $(BIN)/python -m pytest --nbval-lax $(LIVE)
ifneq ($(filter-out $(LIVE),$(CHAPTERS)),)
	FLOWINV_PROFILE=ci $(BIN)/python -m pytest --nbval-lax $(filter-out $(LIVE),$(CHAPTERS))
endif

slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

# In an environment of its own. Of the test tools only those that the package's tests call are needed.
lowest:
	test -x .lowest/bin/python || $(PYTHON) -m venv .lowest
	.lowest/bin/python -m pip install --quiet uv
	.lowest/bin/uv pip install --quiet --python .lowest/bin/python --resolution lowest-direct \
	    --editable '.[test]' 'pyyaml>=6' 'packaging>=24'
	.lowest/bin/python -W default -m pytest -W default -o addopts="-m 'not slow'" $(PACKAGE_TESTS)

execute: $(VENV)/installed
	FLOWINV_PROFILE=quick $(BIN)/python book/execute.py $(CHAPTERS)

bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	for script in $(filter-out benchmarks/harness.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit; done

clean:
	rm -rf _build $(VENV) .lowest .coverage .pytest_cache .ruff_cache dist
