# `make` lists the targets. Each one that needs Python builds .venv first, when it is missing or when requirements.txt
# has changed.
SHELL := /bin/bash
.SHELLFLAGS := -eo pipefail -c
.DEFAULT_GOAL := help

# More flags for the script behind a target: make train ARGS="--seed 2".
ARGS ?=
# Of `make ui`: the port of Aim's page, and the directory that holds the .aim repository.
PORT ?= 43800
REPO ?= .
# Of `make watch`: a checkpoint or a run's directory.
POLICY ?= pretrained/ppo_beta

BIN := .venv/bin
# What is started with this ends with make, also where make is killed.
WITH_MAKE := exec $(BIN)/python -I end_with_parent.py $$PPID
# Aim has no wheel for Python 3.13 and later, so only 3.11 and 3.12 will do. Both searches run when .venv is made.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
# Any Python 3 that can make a virtual environment, to get Python 3.12 with.
OTHER_PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.10 python; do \
	"$$p" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 8))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)

.PHONY: help setup demo watch train test lint format ui bench soak clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile
	@echo 'More flags for a script: make train ARGS="--seed 2"'

setup: .venv/.ready  ## install everything into .venv: 2 GB of disk with the CPU build of torch, more with CUDA
	@echo "setup: .venv is ready"

demo: .venv/.ready  ## score the pretrained PPO policy on one track and film it: demo.mp4
	$(WITH_MAKE) $(BIN)/python evaluate.py --checkpoint pretrained/ppo_beta --tracks 70 --video demo.mp4 $(ARGS)

watch: .venv/.ready  ## play a policy in a window (POLICY=checkpoints/mine: another than the pretrained one)
	$(WITH_MAKE) $(BIN)/python evaluate.py "$(POLICY)" --watch $(ARGS)

train: .venv/.ready  ## train PPO with the recipe `quick`, score it on the 100 scoring tracks and film it
	$(WITH_MAKE) $(BIN)/python train_ppo.py --recipe quick --score $(ARGS)

test: .venv/.ready  ## run the tests, two at a time
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.ready  ## check style and types: ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.ready  ## format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: .venv/.ready  ## show the runs in Aim on http://127.0.0.1:43800 (PORT=43801: another port, REPO=DIR: other runs)
	@$(WITH_MAKE) $(BIN)/python aim_page.py --port "$(PORT)" --repo "$(REPO)" $(ARGS)

bench: .venv/.ready  ## answer every question of benchmarks/ in half an hour: docs/benchmarks.md (ARGS="env_speed": one)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r benchmarks/requirements.txt \
		|| echo "bench: EnvPool could not be installed; it is left out" >&2
	$(WITH_MAKE) $(BIN)/python -m benchmarks.book $(ARGS)

soak: .venv/.ready  ## try kills, damaged files, full disks and other faults on the real scripts, for half an hour
	$(BIN)/python -m tests.soak $(ARGS)

clean:  ## remove .venv and the caches; trained runs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info

# The stamp is written last: an install that was cut short starts anew instead of looking done.
.venv/.ready: requirements.txt
	@rm -rf .venv
	@python="$(PYTHON)"; \
	if [ -n "$$python" ]; then \
		"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
			|| { echo "setup: $$python is not Python 3.11 or 3.12; name one: make PYTHON=/path/to/python3.12" >&2; exit 2; }; \
		echo "setup: making .venv with $$("$$python" -V)"; \
		"$$python" -m venv .venv >/dev/null \
			|| { echo "setup: $$python cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 2; }; \
	else \
		other="$(OTHER_PYTHON)"; \
		[ -n "$$other" ] \
			|| { echo "setup: found no Python 3 that can make a virtual environment; install Python 3.12" >&2; exit 2; }; \
		echo "setup: no Python 3.11 or 3.12 here, which Aim needs; fetching Python 3.12 with uv"; \
		tools="$$(mktemp -d)"; trap 'rm -rf "$$tools"' EXIT; \
		{ "$$other" -m venv "$$tools" && "$$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv \
			&& "$$tools/bin/uv" venv --quiet --python 3.12 --seed .venv; } >"$$tools/log" 2>&1 \
			|| { why="$$(tail -n 1 "$$tools/log" | sed 's/^ *//')"; \
				echo "setup: Python 3.12 could not be fetched ($$why); install it yourself" >&2; exit 2; }; \
	fi
	@echo "setup: installing torch, Aim and the rest into .venv; this takes some minutes and 2 GB of disk, more with CUDA"
	@$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -r requirements.txt \
		| sed -nu -e 's/ (from .*//' -e 's/^Collecting /  getting /p' \
			-e 's/^Installing collected packages.*/  unpacking them all, the longest step/p'
	@touch $@
