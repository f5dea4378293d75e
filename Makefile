# `make` alone lists the targets: every line "target: ## text" below.
SHELL := bash
VENV := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test fast lint

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## install what is missing: system packages, .venv
	@scripts/setup

demo: setup ## mount a tree, work on it, and see the events as they come
	@scripts/demo

test: setup ## every test, on real mounts (needs /dev/fuse): what CI runs
	@$(VENV)/pytest

fast: setup ## the pure tests only (no /dev/fuse)
	@$(VENV)/pytest -m 'not mount'

lint: setup ## ruff and mypy --strict
	@$(VENV)/ruff check
	@$(VENV)/ruff format --check
	@$(VENV)/mypy
