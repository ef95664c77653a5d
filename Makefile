# `make demo` and `make test` need a C++20 compiler and Python 3.11 or later, nothing else: make.py sets up .venv. It is also
# the way to these two where there is no make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test browser cluster kernels lint format docs notebooks wheel bench sanitize races wasm fuzz fuzz-sanitized clean always
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 18

demo: ## segment two photos and draw out/demo.png
	@$(PYTHON) make.py demo

test: ## run the tests against the installed package
	@$(PYTHON) make.py test

SCREENSHOTS ?=
browser: ## try `crfrnn web` and the page of `make wasm` in Chromium; SCREENSHOTS=docs renews the pictures of the page there
	@SCREENSHOTS=$(SCREENSHOTS) $(PYTHON) make.py browser

# Ray starts many processes, each of which would compile all its modules anew.
cluster: $(VENV)/.cluster-dev-stamp ## run the tests on a Ray cluster of two machines on this one, and of training on two
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest tests/cluster

kernels: $(VENV)/.dev-stamp ## run the GPU kernels on the CPU, and compile them for three generations of cards
	@$(BIN)/python -m pytest tests/gpu/triton_suite.py

wheel: ## build dist/, and try the wheel in an environment of its own without a compiler
	@$(PYTHON) make.py wheel

lint: $(VENV)/.dev-stamp ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run --Werror native/*.cpp native/*.h wasm/*.cpp wasm/*.h

# --quiet would silence warnings before --strict counts them: broken links would pass.
docs: $(VENV)/.docs-stamp ## build the documentation into site/, and fail for what it links to in vain
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -W ignore::DeprecationWarning -m mkdocs build --strict
	@echo "site/index.html (with search: $(PYTHON) -m http.server --directory site)"

format: $(VENV)/.dev-stamp ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/clang-format -i native/*.cpp native/*.h wasm/*.cpp wasm/*.h

INTO ?= out/notebooks
notebooks: $(VENV)/.notebooks-stamp ## run the notebooks, results in out/notebooks; INTO=notebooks renews those in the repository
	@$(BIN)/python notebooks/execute.py $(INTO)

bench: $(VENV)/.bench-stamp ## compare with other tools and rewrite docs/benchmarks.md
	@$(BIN)/python -m benchmarks

sanitize: $(VENV)/.build-stamp ## run the native tests under AddressSanitizer and UBSan
	@$(BIN)/cmake -S . -B build/sanitize -DCRFRNN_NATIVE_TESTS=ON -DCRFRNN_SANITIZE=address -DCMAKE_BUILD_TYPE=RelWithDebInfo
	@$(BIN)/cmake --build build/sanitize --parallel
	@$(BIN)/ctest --test-dir build/sanitize --output-on-failure

# ThreadSanitizer needs addresses where it expects them, which newer kernels shuffle.
UNSHUFFLED := $(shell setarch -R true 2>/dev/null && echo setarch -R)

races: $(VENV)/.build-stamp ## run the native tests under ThreadSanitizer
	@$(BIN)/cmake -S . -B build/races -DCRFRNN_NATIVE_TESTS=ON -DCRFRNN_SANITIZE=thread -DCMAKE_BUILD_TYPE=RelWithDebInfo
	@$(BIN)/cmake --build build/races --parallel
	@TSAN_OPTIONS=halt_on_error=1 $(UNSHUFFLED) $(BIN)/ctest --test-dir build/races --output-on-failure -R 'thread_tests|avx2'

# The site, too: a page of it holds the package. `make browser` tries it.
WASM := build/wasm
wasm: $(VENV)/.dev-stamp ## compile the core to WebAssembly; build and try the npm package, and the site with it
	@$(BIN)/python wasm/build.py
	@$(BIN)/ctest --test-dir $(WASM)/native --output-on-failure --timeout 900 -R baseline
	@$(BIN)/ctest --test-dir $(WASM)/native-threads --output-on-failure --timeout 900 -R 'baseline|thread_tests'
	@$(BIN)/python wasm/tests/expected.py $(WASM)/expected
	@for script in docs/browser/*.js wasm/*.js; do node --check $$script || exit 1; done
	@node --test wasm/tests/package.test.js
	@$(MAKE) --no-print-directory docs

FUZZ ?= 10000
fuzz: $(VENV)/.dev-stamp ## try FUZZ=10000 arrays and files by chance and a hundredth as many kills; what is wrong is in out/fuzz
	@$(BIN)/python tests/fuzz $(FUZZ)
	@FUZZ=$$(( ($(FUZZ) + 99) / 100 )) $(BIN)/python -m pytest tests/fuzz/test_processes.py

# The package as it is, with a native core that is built with sanitizers; those have to be loaded before anything else.
SANITIZED := build/fuzz-sanitized
PRELOADED = $(foreach library,libasan.so libubsan.so libstdc++.so,$(shell $(CXX) -print-file-name=$(library)))
fuzz-sanitized: $(VENV)/.dev-stamp ## the same arrays under AddressSanitizer and UBSan
	@$(BIN)/cmake -S . -B $(SANITIZED) -DCRFRNN_SANITIZE=address -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir)
	@$(BIN)/cmake --build $(SANITIZED) --parallel
	@rm -rf $(SANITIZED)/crfrnn && cp -r src/crfrnn $(SANITIZED) && rm -f $(SANITIZED)/crfrnn/_native*.so
	@cp $(SANITIZED)/_native*.so $(SANITIZED)/crfrnn
	@PYTHONPATH=$(SANITIZED) FUZZ_PRELOAD="$(PRELOADED)" $(BIN)/python tests/fuzz $(FUZZ) --calls

clean: ## remove everything that make made
	rm -rf build dist out site $(VENV) $(VENV)-browser .pytest_cache .mypy_cache .ruff_cache .hypothesis

# make.py knows what is up to date. $(VENV)/.dev-stamp is .venv with the extra dev, and so on.
$(VENV)/.%-stamp: always
	@$(PYTHON) make.py install $*
