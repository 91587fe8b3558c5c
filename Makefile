# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
DATA ?=
ARGS ?=

PEERS := fastapi mlserver litserve bentoml

.PHONY: demo test lint types house unit bench bench-peers bench-serving bench-watch clean

demo: .venv/core
	@$(BIN)/everloop demo $(if $(DATA),--data $(DATA)) $(ARGS)

test: .venv/dev lint types house unit

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

house: .venv/dev
	$(BIN)/lint-imports

unit: .venv/dev
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

bench: .venv/dev
	$(BIN)/python -m bench.all $(ARGS)

# Other servers, each in an environment of its own: they do not install together.
bench-peers: $(PEERS:%=.venv-bench/%/ready)

.venv-bench/%/ready: bench/peers/requirements-%.txt
	$(PYTHON) -m venv --clear .venv-bench/$*
	.venv-bench/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Serving beside others, about a quarter of an hour on an idle machine: `apt-get install wrk` first.
bench-serving: .venv/dev
	-@$(MAKE) --keep-going bench-peers
	$(BIN)/python -m bench.serving --peers $(ARGS)

# The watch beside Evidently, river and naive rules, about half an hour.
bench-watch: .venv/dev
	-@$(MAKE) .venv-bench/evidently/ready
	$(BIN)/python -m bench.watch $(ARGS)

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[boost]'
	@touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ .venv/core

clean:
	rm -rf .venv .venv-bench .everloop demo build src/*.egg-info
