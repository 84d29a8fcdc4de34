PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install quickstart test fuzz coverage lint clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $@

quickstart: install
	$(BIN)/vmae-det quickstart

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal

fuzz: install
	$(BIN)/python -m tests.fuzz.driver --count 3000

coverage: install
	$(BIN)/python -m pytest -n auto --cov=vmae_det --cov-report=term:skip-covered --cov-fail-under=85

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf $(VENV) output build *.egg-info
