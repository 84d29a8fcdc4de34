PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Python of `make gpu-test`. Any other than that of .venv is used as it is: nothing is installed.
GPU_PYTHON ?= $(BIN)/python

.PHONY: install quickstart test gpu-test fuzz coverage lint docs clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $@

quickstart: install
	$(BIN)/vmae-det quickstart

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal

gpu-test: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),install)
	VMAE_TEST_DEVICE=$${VMAE_TEST_DEVICE:-cuda} $(GPU_PYTHON) -m pytest tests/gpu -m gpu -rs

fuzz: install
	$(BIN)/python -m tests.fuzz.driver --count 3000

coverage: install
	$(BIN)/python -m pytest -n auto --cov=vmae_det --cov-report=term:skip-covered --cov-fail-under=85

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

docs: install
	$(BIN)/python -c "import sphinx, myst_parser, furo, sphinx_copybutton" || $(BIN)/python -m pip install --quiet -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) output build docs/_build *.egg-info
