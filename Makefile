# Everything runs in .venv, which the first target makes: `make demo` and `make test` need nothing
# but Python >= 3.10, git and make. PYTHON=python3.12 chooses another interpreter,
# TEST_PROCESSES=1 runs the tests one after the other.
PYTHON ?= python3
TEST_PROCESSES ?= 2
BIN := .venv/bin

.PHONY: demo quick real test test-fast test-faults lint docs clean

demo: .venv/installed
	$(BIN)/img2shape demo

quick: .venv/installed
	$(BIN)/img2shape demo --quick

# Fetches furniture of Sweet Home 3D on Debian and Ubuntu; LIBRARY=FILE_OR_FOLDER takes other libraries.
real: .venv/installed
	$(BIN)/img2shape real $(if $(LIBRARY),--library "$(LIBRARY)")

# Files with slow tests come first (tests/conftest.py), so that both processes end together.
PARALLEL := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test: .venv/installed
	$(BIN)/pytest -m "not faults" $(PARALLEL)

test-fast: .venv/installed
	$(BIN)/pytest -m "not (faults or slow or ray or processes)" $(PARALLEL)

test-faults: .venv/installed
	$(BIN)/pytest tests/faults

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Writes build/site and fails on a warning, such as a link to nowhere. Needs Python 3.11.
docs: .venv/installed
	$(BIN)/python docs/generate.py build/docs
	$(BIN)/zensical build --strict --clean
	$(BIN)/python docs/no_requests.py build/site

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info
