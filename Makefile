PYTHON ?= python3
BIN := .venv/bin

.PHONY: race test test-all check benchmarks browser clean

race: .venv/installed
	$(BIN)/thalweg race digits

test: check browser
	$(BIN)/pytest

# Also what takes too long for every change.
test-all: check browser
	$(BIN)/pytest -m "exhaustive or not exhaustive"

check: .venv/installed-dev
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The tests of the report open it in Chromium, and are skipped where there is none.
browser:
	@command -v chromium >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	     && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	|| echo "no chromium here: the tests of the report in a browser will be skipped"

benchmarks: .venv/installed
	$(BIN)/python benchmarks/stack.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/doctor.py
	$(BIN)/python benchmarks/edge.py
	$(BIN)/python benchmarks/pretrain_waveform.py
	$(BIN)/python benchmarks/tricks.py

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
