# `make demo` and `make test` need a C++20 compiler and Python 3.11 or later, nothing else: they set up .venv themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Those of pyproject.toml, kept in .venv so that a build takes up where the last one ended.
BUILD_TOOLS := scikit-build-core nanobind cmake ninja
# What ends up in the installed package: a change here installs it anew.
SOURCES := CMakeLists.txt pyproject.toml constraints.txt \
	$(shell find native src -type f ! -name '*.so' ! -name '*.pyc' ! -path '*/.*')

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz lint format bench sanitize clean
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.models-stamp ## segment three photos and draw out/demo.png
	@$(BIN)/crfrnn demo --output out/demo.png

test: $(VENV)/.dev-stamp ## run the tests against the installed package
	@$(BIN)/python -m pytest

fuzz: $(VENV)/.dev-stamp ## try hostile calls, damaged files and kills: make fuzz FUZZ=100000
	@FUZZ=$(or $(FUZZ),1000) $(BIN)/python -m pytest tests/fuzz

lint: $(VENV)/.dev-stamp ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run --Werror native/*.cpp native/*.h

format: $(VENV)/.dev-stamp ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/clang-format -i native/*.cpp native/*.h

bench: $(VENV)/.bench-stamp ## compare with other tools and rewrite docs/benchmarks.md
	@$(BIN)/python -m benchmarks

sanitize: $(VENV)/.tools-stamp ## run the native tests under AddressSanitizer and UBSan
	@$(BIN)/cmake -S . -B build/sanitize -DCRFRNN_NATIVE_TESTS=ON -DCRFRNN_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	@$(BIN)/cmake --build build/sanitize --parallel
	@$(BIN)/ctest --test-dir build/sanitize --output-on-failure

clean: ## remove everything that make made
	rm -rf build out $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.tools-stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crfrnn needs Python 3.11 or later; make PYTHON=...")'
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) $(BUILD_TOOLS)
	@touch $@

$(VENV)/.base-stamp: $(SOURCES) $(VENV)/.tools-stamp
	@echo "building and installing crfrnn (a minute the first time)"
	@$(INSTALL) --no-build-isolation .
	@touch $@

# crfrnn is installed by now, so these add what its extras name.
$(VENV)/.models-stamp: $(VENV)/.base-stamp
	@echo "installing PyTorch (some minutes the first time)"
	@$(INSTALL) 'crfrnn[models]'
	@touch $@

$(VENV)/.dev-stamp: $(VENV)/.base-stamp
	@echo "installing what tests it (some minutes the first time)"
	@$(INSTALL) 'crfrnn[dev]'
	@touch $@

$(VENV)/.bench-stamp: $(VENV)/.base-stamp
	@echo "installing what it is compared with (some minutes the first time)"
	@$(INSTALL) 'crfrnn[bench]'
	@touch $@
