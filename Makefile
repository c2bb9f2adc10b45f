# Each target sets up what it needs in .venv, once, and runs. `make generate ARGS="--steps 64"` passes options on.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help generate test test-pythons lint bench report clean

help:
	@echo 'make generate   write a text with the shipped model    ARGS="--steps 64 --seed 7"'
	@echo 'make test       run the tests                          ARGS="-k gemm"'
	@echo 'make test-pythons  some tests on every Python there is  ARGS="tests/kernels"'
	@echo 'make lint       ruff and mypy'
	@echo 'make bench      measure against other libraries        ARGS="-k linear"'
	@echo 'make report     BENCHMARKS.md from benchmarks/results/'
	@echo 'make clean      remove .venv and what tools have left'

generate: $(VENV)/run.stamp
	@$(BIN)/fastsedd generate $(ARGS)

# Two processes at a time: one core for each, and most tests keep one busy, with compiling or with a process of theirs.
test: $(VENV)/test.stamp
	@$(BIN)/pytest --numprocesses 2 --dist loadfile $(ARGS)

# Environments of their own, .venv-3.10 to .venv-3.14.
test-pythons:
	@.ci/pythons $(ARGS)

lint: $(VENV)/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Each suite in a process of its own: another library's threads are then gone for the next.
bench: $(VENV)/bench.stamp
	@rm -rf .benchmarks && mkdir .benchmarks
	@for suite in forward generate language accelerate attention rows gemm matmul gemv groups strassen; do \
		$(BIN)/pytest benchmarks/bench_$$suite.py --benchmark-json=.benchmarks/$$suite.json $(ARGS) || exit; \
	done
	@$(BIN)/python benchmarks/report.py --keep .benchmarks/*.json

report: $(VENV)/bench.stamp
	@$(BIN)/python benchmarks/report.py

clean:
	rm -rf $(VENV) $(VENV)-3.* $(VENV)-arm64 build dist .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find fastsedd kernels tests training -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is as new as the installation it stands for. What is said goes to stderr: stdout is the program's own.
$(VENV)/run.stamp: pyproject.toml
	@echo 'setting up $(VENV): fastsedd and what it needs to run' >&2
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --editable .
	@touch $@

$(VENV)/%.stamp: $(VENV)/run.stamp
	@echo 'setting up $(VENV): the "$*" extra' >&2
	@$(PIP) install --editable '.[$*]'
	@touch $@
