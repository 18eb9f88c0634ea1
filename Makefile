# make demo                  real photos, real weights, class activation maps, the App (IMAGES=/folder, HEADLESS=1)
# make test-core             the tests that need no database, in a minute (ARGS="-k boxes")
# make test                  the tests, in some minutes (ARGS="-k boxes", WORKERS=4)
# make test-slow             the slow ones: trainings, real photos by the hundred, faults, endurance
# make soak                  ten runs and deletions over 50,000 samples: hours (SAMPLES=5000)
# make lint                  format, rules, types, declared dependencies
# make bench                 the benchmark, beside the machine's limits and other libraries (ARGS="--workloads cifar")
# make profile               where the time of a run goes (IMAGES=/folder)
# make clean                 remove .venv and everything else that make made

# A failure of pip's is not to be lost in what filters its words
SHELL := bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check
# Of what pip says, one line for each package that it fetches
NAMES  := (grep --line-buffered -o '^Collecting [^ (;<>=!~]*' || true)
# PyTorch's own index of CPU builds, if you name it, spares a machine without a GPU 4 GB; otherwise PyPI's build is taken
TORCH_INDEX ?=
CORE   := tests/core tests/engines/test_local.py tests/training/test_loop.py
WORKERS ?= 2
# Each process with one thread: two that each compute with two, on two cores, take twice as long
TEST   := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

.PHONY: demo test-core test test-slow soak lint bench profile install clean

demo: $(firstword $(wildcard $(VENV)/.installed-dev) $(VENV)/.installed-lite)
	@$(BIN)/python examples/demo.py $(if $(IMAGES),--images "$(IMAGES)") $(if $(filter-out 0,$(HEADLESS)),--headless)

# The address is none: what asks for a database here fails
test-core: $(VENV)/.installed-dev
	@FIFTYONE_DATABASE_URI=mongodb://none.invalid $(TEST) -m "not slow and not browser" $(CORE) $(ARGS)

# First in several processes, whole files to each; then what drives a browser, which wants the machine for itself. pytest
# ends with 5 where ARGS select nothing of one of the two.
test: $(VENV)/.installed-dev
	@$(TEST) --durations=15 -m "not slow and not browser" $(ARGS) || [ $$? = 5 ]
	@$(BIN)/python -m pytest -q --durations=15 -m "browser and not slow" $(ARGS) || [ $$? = 5 ]

test-slow: $(VENV)/.installed-dev
	@$(TEST) --durations=15 -m "slow and not browser" $(ARGS) || [ $$? = 5 ]
	@$(BIN)/python -m pytest -q --durations=15 -m "slow and browser" $(ARGS) || [ $$? = 5 ]

soak: $(VENV)/.installed-dev
	@FIFTYONE_CAM_SOAK=$(or $(SAMPLES),50000) $(BIN)/python -m pytest -q -s -o faulthandler_timeout=0 tests/faults/test_soak.py

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@$(BIN)/deptry .

# Without their dependencies: opencv-python would overwrite the cv2/ folder of the distribution that FiftyOne pins.
bench: $(VENV)/.installed-dev
	@$(PIP) -qq --no-deps torchcam==0.5.0 grad-cam==1.5.7 ttach==0.0.3
	@$(BIN)/python -W ignore -m benchmarks $(ARGS)

profile: $(VENV)/.installed-dev
	@$(BIN)/python -W ignore -m benchmarks.profile $(if $(IMAGES),--images "$(IMAGES)") $(ARGS)

install: $(VENV)/.installed-dev

# The extra [lite] for the demo, [dev] (which includes it) for the rest. pip leaves alone what is there.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), some minutes the first time: PyTorch (1 GB for a CPU, 5 GB with CUDA), FiftyOne (1 GB), the rest"
	@$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch torchvision | $(NAMES))
	@$(PIP) --editable '.[$*]' | $(NAMES)
	@$(BIN)/python -m fiftyone_cam doctor --fix >/dev/null
	@touch $@

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
