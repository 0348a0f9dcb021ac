# Every target sets up .venv from pinned versions when it has to; nothing else needs to be installed but Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

RECIPE ?= recipes/arithmetic/ppo/multi_attempt.yaml
ACCELERATE ?= accelerate_configs/single_cpu.yaml
ALGORITHM ?= $(notdir $(patsubst %/,%,$(dir $(RECIPE))))
SEEDS ?= 0 1 2
BUDGET ?= 7
ARGS ?=
# One thread per process: small models run faster so, and the numbers do not depend on the number of cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export TRL_EXPERIMENTAL_SILENCE ?= 1

.PHONY: help venv train eval reproduce experiment smoke test test-slow test-vllm quality clean

help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(READY) ## Set up .venv from pinned versions.

# torch comes first and pinned, so that nothing pulls in another build of it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -c constraints.txt -e '.[dev]'
	touch $@

train: $(READY) ## Train a recipe: RECIPE=... ACCELERATE=... [PROCESSES=4] ARGS="--learning_rate 1e-6".
	$(BIN)/accelerate launch --config_file $(ACCELERATE) $(if $(PROCESSES),--num_processes $(PROCESSES)) -m multiattempt_trl $(ALGORITHM) --config $(RECIPE) $(ARGS)

eval: $(READY) ## Evaluate: MODEL=<checkpoint or hub id> [BENCHMARKS=a,b=path] [BUDGET=7] [ACCELERATE=... PROCESSES=4] [ARGS=...].
	@test -n "$(MODEL)" || { echo "usage: make eval MODEL=<checkpoint or hub id> [BENCHMARKS=...] [BUDGET=7]"; exit 2; }
	$(if $(PROCESSES),$(BIN)/accelerate launch --config_file $(ACCELERATE) --num_processes $(PROCESSES) -m multiattempt_trl,$(BIN)/multiattempt) eval --model $(MODEL) $(if $(BENCHMARKS),--benchmarks $(BENCHMARKS)) --budget $(BUDGET) $(ARGS)

reproduce: $(READY) ## Warm start, single-turn RL and multi-attempt RL side by side: SEEDS="0 1 2".
	$(BIN)/multiattempt reproduce --seeds $(SEEDS) $(ARGS)

experiment: $(READY) ## Cells over seeds side by side, what is missing of them: NAME=credit [ARGS="--jobs 1 --dry_run true"].
	@test -n "$(NAME)" || { echo "usage: make experiment NAME=<a file of recipes/experiments, without .yaml>"; exit 2; }
	$(BIN)/multiattempt experiment --config recipes/experiments/$(NAME).yaml $(ARGS)

smoke: $(READY) ## The 1.5B recipes on real questions and the real tokenizer, with a tiny random model.
	$(BIN)/python -m pytest tests/test_smoke.py -v

# Two at a time, file by file: what launches processes of its own stands in one file.
test: $(READY) ## All checks that take less than 15 minutes together; offline.
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY) ## The checks that take longer.
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

test-vllm: $(READY) ## The checks against a real vLLM; needs vLLM and a GPU.
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m vllm

quality: $(READY) ## Lint, format check and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## Remove caches; keep .venv and outputs.
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
