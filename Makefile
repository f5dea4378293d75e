# `make` alone lists the targets: every line "target: ## text" below.
SHELL := bash
VENV := .venv/bin
# Mounting for other users, and being them, takes root: a user's tests run through sudo.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)

.DEFAULT_GOAL := help
.PHONY: help setup demo test rooms fast lint bench

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## install what is missing: system packages, .venv
	@scripts/setup

demo: setup ## mount a tree, work on it, and see the events as they come
	@scripts/demo

test: lint ## lint, then every test, on real mounts (needs /dev/fuse and root, by sudo if need be): what CI runs
	@$(AS_ROOT) $(VENV)/pytest

rooms: setup ## each folder of the tests alone: what one leaves behind, or needs of another, shows
	@for room in pure loop scenarios posix faults subscribers watch tools; do $(AS_ROOT) $(VENV)/pytest tests/$$room || exit; done

fast: setup ## the pure tests only (no /dev/fuse)
	@$(VENV)/pytest -m 'not mount'

lint: setup ## ruff and mypy --strict
	@$(VENV)/ruff check
	@$(VENV)/ruff format --check
	@$(VENV)/mypy

bench: ## measure beside other programs, for twenty minutes of a quiet machine, and write docs/benchmarks.md
	@scripts/setup bench
	@$(AS_ROOT) $(VENV)/python -m scripts.bench
