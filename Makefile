# `make train` and `make test` are all the set-up there is: both build .venv when it is missing or
# when requirements.txt has changed, and start at once when it has not.
SHELL := /bin/bash
ARGS ?=
REPO ?= .
PORT ?= 43800

# Aim has no wheel for Python 3.13, so the search stops at an interpreter it can be installed on.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
BIN := .venv/bin

.PHONY: train test lint format ui soak clean

train: .venv/.ready
	$(BIN)/python train_ppo.py --score $(ARGS)

test: .venv/.ready
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: .venv/.ready
	@test -d "$(REPO)/.aim" || { echo "ui: no Aim repository in $(REPO); train first, or name one: make ui REPO=DIR" >&2; exit 2; }
	$(BIN)/aim up -y --host 127.0.0.1 --port $(PORT) --repo "$(REPO)"

soak: .venv/.ready
	$(BIN)/python -m benchmarks.soak $(ARGS)

# The stamp is written last: an install that was cut short starts anew instead of looking done.
.venv/.ready: requirements.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or 3.12 is needed (Aim has no wheel for 3.13); name one: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
