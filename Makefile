# make setup   a virtual environment in .venv with everything in it: libraries, ROS 2, this package, its messages
# make demo    setup, then a few episodes of the whole loop; figures and pictures in out/
# make test    setup, checks and tests
# make lint    ruff and mypy
# make evaluation   setup, and ManiSkill3 in .venv-evaluation, for `twinbrain evaluate simpler-ms3`
# make bench-gpu    setup, then on a machine with a GPU its tests and a 4B twin beside the plain way; out/bench_gpu.json
# make clean   takes away what the others made, .venv included, but not the results in out/
#
# Needs: python3 (3.10 or later) with venv, a C++ compiler, make; x86_64. Nothing else from the system.
# Variables: PYTHON=python3.12       the interpreter to make .venv with
#            PIP_ARGS="..."          more arguments for pip, as the index of PyTorch's CPU builds: the default index gives
#                                    builds for CUDA, several GB larger
#            DEMO_ARGS="..."         arguments of `twinbrain demo`
#            PYTEST_ARGS="..."       arguments of the three runs of pytest, as -x
#            BENCH_ARGS="..."        arguments of scripts/bench_gpu.py, as --config qwen2_5_vl_3b

PYTHON ?= python3
PIP_ARGS ?=
DEMO_ARGS ?= --task all --episodes 6
PYTEST_ARGS ?=
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
EVALUATION := .venv-evaluation

# The resolver of the pip that comes with Python 3.10 and 3.11 loses itself in these requirements on 3.10.
PIP_VERSION := 26.3

# A sourced ROS installation or another environment's libraries must not mix with the ones in .venv.
unexport PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE

PIP_FLAGS := --disable-pip-version-check --progress-bar off --quiet
PIP_INSTALL := $(BIN)/python -m pip install $(PIP_FLAGS)
REQUIREMENTS := requirements/core.txt requirements/ros.txt requirements/dev.txt
INTERFACES := $(wildcard msg/*.msg srv/*.srv action/*.action) $(shell find test/interfaces -type f)

.PHONY: setup demo test lint evaluation bench-gpu clean

setup: $(VENV)/.package-done $(VENV)/.messages-done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: $(PYTHON) is missing or older than 3.10; try make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
	  || { echo "error: $(PYTHON) lacks venv; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null \
	  || { echo "error: no C++ compiler; on Debian and Ubuntu: apt install build-essential"; exit 1; }
	@test "$$(uname -s)-$$(uname -m)" = Linux-x86_64 \
	  || { echo "error: the ROS 2 wheels are for Linux on x86_64 only; elsewhere build in a colcon workspace"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One command for all files, so that torch's pin holds while the other packages' requirements are resolved.
$(VENV)/.requirements-done: $(REQUIREMENTS) | $(BIN)/python
	$(PIP_INSTALL) pip==$(PIP_VERSION)
	$(PIP_INSTALL) $(PIP_ARGS) $(addprefix -r ,$(REQUIREMENTS))
	@touch $@

# Again after the requirements: a reinstalled wheel brings back the CMake exports that are mended here.
$(VENV)/.messages-done: $(VENV)/.requirements-done $(INTERFACES) CMakeLists.txt scripts/build_messages.py
	$(BIN)/python scripts/build_messages.py
	@touch $@

$(VENV)/.package-done: $(VENV)/.requirements-done setup.py pyproject.toml package.xml
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@mkdir -p out
	$(BIN)/twinbrain demo $(DEMO_ARGS) --json out/demo.json --sheet out/demo.png --log-dir out/logs

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy --num-workers auto

# Unit tests side by side, one thread each; tests of nodes two at a time, which mostly wait for messages, each process in
# a ROS domain of its own; then the whole loop, whose clocks want the cores.
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 test/unit $(PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 test/nodes $(PYTEST_ARGS)
	$(BIN)/python -m pytest test/e2e $(PYTEST_ARGS)

evaluation: setup $(EVALUATION)/bin/simulator-python

$(EVALUATION)/bin/simulator-python: requirements/evaluation.txt scripts/simulator_python.py
	$(PYTHON) -m venv $(EVALUATION)
	$(EVALUATION)/bin/python -m pip install $(PIP_FLAGS) pip==$(PIP_VERSION)
	$(EVALUATION)/bin/python -m pip install $(PIP_FLAGS) $(PIP_ARGS) -r requirements/evaluation.txt
	$(EVALUATION)/bin/python scripts/simulator_python.py

bench-gpu: setup
	$(BIN)/python scripts/bench_gpu.py $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(EVALUATION) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
