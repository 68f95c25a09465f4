# make demo, make test: each sets up what it needs. PYTHON= chooses the interpreter (3.11 is the
# version that constraints.txt was made for); pip's own configuration is respected.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
OUTPUT ?= demo-report

.PHONY: demo test check docs clean

demo: $(VENV)/.ready
	$(BIN)/lepton-edge demo --output $(OUTPUT) $(DEMO)

test: $(VENV)/.ready
	$(BIN)/python -m pytest $(TEST)

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python docs/generate.py --check

docs: $(VENV)/.ready
	$(BIN)/python docs/generate.py

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip check
	touch $@

clean:
	rm -rf $(VENV) build dist demo-report *.egg-info .pytest_cache .mypy_cache .ruff_cache
