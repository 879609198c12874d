# Every target that needs the environment makes it first. `make help` lists the targets and what they cost.

PROFILE ?= tiny
# Of search and training: quick or standard (smollm2 also full); empty: the page's own.
BUDGET  ?=
# Blocks such as "llm-pruner:20 shortened:50"; empty: the page's own, or all of the profile.
BLOCKS  ?=
# Training seeds such as "0 1 2"; empty: the budget's.
SEEDS   ?=
LEDGER  ?= ledger
REPORTS ?= reports
# A folder of <task>/<split>.jsonl, and a .jsonl of instruction rows, in place of the profile's sources.
BENCHMARKS    ?=
RECOVERY_DATA ?=
# Ranks of one more row, one a layer of the unpruned model: "8 8 4 12 ...".
ALLOCATION    ?=
# Of ablations, such as "scaling signal"; empty: all nine.
ABLATION ?=
# A table that rank-table made, for search-report; empty: the committed one.
TABLE   ?=
# Of the benchmarks of pruning, evaluation, recovery and trials.
BENCH_PROFILE ?= smollm2
# How many processes compute; empty: the profile's number, or one a GPU.
WORKERS ?=
# Where: local (this machine), or ray (the cluster of RAY_ADDRESS, or one that is started here).
EXECUTOR ?= local
# Where benchmarks write; the committed records change with OUT=reports/benchmarks alone.
OUT ?= build/benchmarks
# A folder, or ORGANISATION/NAME@COMMIT, in place of a base model of the hub.
MODEL ?=
# Of a campaign, for which it works.
HOURS   ?= 2
# Set to 1, to rehearse the very shape of a profile, on one GPU.
FULL_SIZE ?=

# Values reach the commands through the environment, as they were typed: neither make nor a shell expands them.
NAMES := PROFILE BUDGET BLOCKS SEEDS LEDGER REPORTS BENCHMARKS RECOVERY_DATA ALLOCATION ABLATION TABLE BENCH_PROFILE \
         WORKERS EXECUTOR OUT MODEL HOURS FULL_SIZE
unexport $(NAMES)
$(foreach name,$(NAMES),$(eval export RANKADAPTOR_$(name) := $$(value $(name))))

PYTHON ?= python3
VENV   := .venv
READY  := $(VENV)/.ready
RUN    := $(VENV)/bin/python -m rankadaptor

.DEFAULT_GOAL := help
.PHONY: help setup test test-fast test-gpu lint report reports lab explore rank-table search-report bench-pruning bench-evaluation \
  bench-recovery bench-trials convert check-gpu rehearse campaign torture torture-ray audit pretrain-testbed clean always

help:  ## list the targets and what they cost
	@echo "RankAdaptor, reproduced. Two commands on a fresh machine: make reproduce-table2, make test."
	@echo
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo
	@echo "Variables: PROFILE=$$RANKADAPTOR_PROFILE BLOCKS='$$RANKADAPTOR_BLOCKS' BUDGET=$$RANKADAPTOR_BUDGET" \
	  "SEEDS='$$RANKADAPTOR_SEEDS' LEDGER=$$RANKADAPTOR_LEDGER REPORTS=$$RANKADAPTOR_REPORTS"
	@echo "           BENCHMARKS='$$RANKADAPTOR_BENCHMARKS' RECOVERY_DATA='$$RANKADAPTOR_RECOVERY_DATA'" \
	  "ALLOCATION='$$RANKADAPTOR_ALLOCATION' ABLATION='$$RANKADAPTOR_ABLATION'"
	@echo "           TABLE=$$RANKADAPTOR_TABLE EXECUTOR=$$RANKADAPTOR_EXECUTOR WORKERS=$$RANKADAPTOR_WORKERS" \
	  "MODEL=$$RANKADAPTOR_MODEL FULL_SIZE=$$RANKADAPTOR_FULL_SIZE PYTHON=$(PYTHON)"
	@echo "           BENCH_PROFILE=$$RANKADAPTOR_BENCH_PROFILE (benchmarks of tiny take two minutes at most and download nothing)" \
	  "OUT=$$RANKADAPTOR_OUT"

setup: $(READY)  ## make .venv and install the lock (2 to 5 minutes, 2 GB; more where torch brings CUDA)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

test: $(READY)  ## run the tests (8 to 11 minutes on 2 cores, offline)
	$(VENV)/bin/python -m pytest

test-fast: $(READY)  ## run the tests that take no notebook, no Ray and no patience (3 to 4 minutes on 2 cores)
	$(VENV)/bin/python -m pytest -m "not slow and not notebook and not ray"

test-gpu: $(READY)  ## what a GPU computes, against a CPU (a minute, where there is one)
	GPU_TESTS=1 $(VENV)/bin/python -m pytest -n0 tests/test_gpu.py

lint: $(READY)  ## ruff, mypy and the order of imports (seconds)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# .jupyter/ holds the setting that notebooks are saved without their outputs: what is run stays as it is in git.
lab: $(READY)  ## open the notebooks in JupyterLab
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" $(VENV)/bin/jupyter lab notebooks

explore: $(READY)  ## open the explorer of allocations in JupyterLab
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" $(VENV)/bin/jupyter lab notebooks/00_explore.ipynb

# Pages: any that `python -m rankadaptor reproduce --help` lists. They are written into REPORTS/PROFILE/BUDGET/, which git
# ignores, and end with what was found beside what is committed.
reproduce-%: $(READY) always
	@$(RUN) reproduce $*

plan-%: $(READY) always
	@$(RUN) plan $*

reproduce-all:  ## every table, figure and the report page into reports/PROFILE/BUDGET/, of one profile (25 minutes on 2 cores; resumes)
reproduce-figure2:  ## Figure 2, LoRA against LoRA* and controls, on one block (3 minutes on 2 cores; resumes)
reproduce-table1:  ## Table 1, LoRA against AdaLoRA, and where its ranks went, on one block (a minute)
plan-table2:  ## print what Table 2 would run and cost; computes nothing (seconds); plan-figure2 and others alike
reproduce-table2:  ## Table 2 into reports/PROFILE/BUDGET/ (7 to 12 minutes on 2 cores as set by default; resumes)
reproduce-table3:  ## Table 3's four ablations, on one block (10 minutes on 2 cores)
plan-ablations:  ## print what the ablations would run and cost (seconds)
reproduce-ablations:  ## all nine ablations, or ABLATION="scaling signal", on one block (a quarter of an hour on 2 cores)
reproduce-table4:  ## the same rows beside Table 4 (Vicuna-7B); costs what Table 2 costs, or nothing after it
reproduce-table5:  ## the same rows beside Table 5 (LLaMA-13B)
reproduce-table6:  ## Table 6, no recovery, with perplexities (a minute on 2 cores; smollm2 15 minutes)
reproduce-figure5:  ## Figures 5 and 6, what recovered models write, on one block (2 minutes on 2 cores)

reproduce-figure6: reproduce-figure5  ## the same page: article continuation and step listing stand side by side
	@:

plan-testbed:  ## print what the testbed's page would run and cost (seconds)
reproduce-testbed:  ## what pruning costs and recovery wins on the testbed, and its spread over noise (half an hour)
plan-pruning:  ## print what the pruning page would run and cost (seconds)
reproduce-pruning:  ## which units pruning takes and what that costs, drawn (a minute on 2 cores; smollm2 5 minutes)

rank-table: $(READY)  ## measure the table that searches are replayed on, into build/ (two hours on 2 cores; resumes)
	@$(RUN) rank-table --out build/rank_table.parquet

search-report: reproduce-search  ## searches, rivals and predictors, replayed from the committed table (3 minutes on 2 cores)

plan-rivals:  ## print what the rivals' page would run and cost (seconds)
reproduce-rivals:  ## every rival at the search's budget, really recovered, on one block (20 minutes on 2 cores)

reproduce-headroom:  ## what pruning takes and LoRA wins back, on all blocks (2 minutes on 2 cores)
reproduce-ceiling:  ## LoRA with a small and a large rank in every layer, on all blocks (4 minutes on 2 cores)
plan-paper:  ## print what the paper's protocol would run and cost (seconds)
reproduce-paper:  ## the paper's own protocol, for its search and for what finds nothing, on one block (half an hour on 2 cores)

report: $(READY)  ## the report page, reports/PROFILE/BUDGET/index.html, over what was reproduced so far (seconds)
	@$(RUN) report

reports: $(READY)  ## draw the committed pages from the committed records, README and docs from those; computes nothing (3 minutes)
	@$(RUN) reports

bench-pruning: $(READY)  ## memory and time of importance against the plain way (6 minutes; downloads 105 MB)
	@$(VENV)/bin/python benchmarks/pruning.py --profile "$$RANKADAPTOR_BENCH_PROFILE" --out "$$RANKADAPTOR_OUT"

bench-evaluation: $(READY)  ## our scoring against lm-eval's own backend (half an hour; downloads 238 MB)
	@$(VENV)/bin/python benchmarks/evaluation.py --profile "$$RANKADAPTOR_BENCH_PROFILE" --ledger "$$RANKADAPTOR_LEDGER" \
	  --out "$$RANKADAPTOR_OUT"

bench-recovery: $(READY)  ## our recovery loop against transformers' Trainer (16 minutes); RECOVERY_DATA=alpaca.jsonl
	@$(VENV)/bin/python benchmarks/recovery.py --profile "$$RANKADAPTOR_BENCH_PROFILE" --data "$$RANKADAPTOR_RECOVERY_DATA" \
	  --ledger "$$RANKADAPTOR_LEDGER" --out "$$RANKADAPTOR_OUT"

bench-trials: $(READY)  ## what a trial costs by stage, and how that grows with the model and the items (6 minutes)
	@$(VENV)/bin/python benchmarks/trials.py --profile "$$RANKADAPTOR_BENCH_PROFILE" --ledger "$$RANKADAPTOR_LEDGER" \
	  --out "$$RANKADAPTOR_OUT"
	@$(VENV)/bin/python benchmarks/trials.py --growth --out "$$RANKADAPTOR_OUT"

convert: $(READY)  ## MODEL=ORG/NAME@COMMIT or a folder: pickled weights as safetensors, once (10 minutes for 7B; fetches it)
	@$(RUN) convert

check-gpu: export RANKADAPTOR_PROFILE := $(if $(filter tiny,$(value PROFILE)),llama-7b,$(value PROFILE))
check-gpu: $(READY)  ## a new GPU machine: exactness, one recovery, one evaluation, speed, memory (about ten minutes on a GPU)
	@$(RUN) check-gpu

rehearse: export RANKADAPTOR_PROFILE := $(if $(filter tiny,$(value PROFILE)),llama-7b,$(value PROFILE))
rehearse: $(READY)  ## PROFILE=llama-7b through every stage, on a narrow copy with random weights (5 minutes on 2 cores)
	@$(RUN) rehearse

campaign: export RANKADAPTOR_PROFILE := $(if $(filter tiny,$(value PROFILE)),smollm2,$(value PROFILE))
campaign: $(READY)  ## what SmolLM2 is wanted for, in order, for HOURS=2; its results become records (resumes; downloads 238 MB)
	@$(RUN) campaign

torture: $(READY)  ## kill a run 20 times, and compare with one that was left alone (10 minutes)
	@$(VENV)/bin/python benchmarks/torture.py --out "$$RANKADAPTOR_OUT"

torture-ray: $(READY)  ## a table on two Ray nodes, one killed, the head killed and started again (5 minutes)
	@$(VENV)/bin/python benchmarks/ray_nodes.py --out "$$RANKADAPTOR_OUT"

audit: $(READY)  ## known vulnerabilities of the locked packages (a minute; asks PyPI, and fails where that does not answer)
	@$(VENV)/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict

pretrain-testbed: $(READY)  ## the embedded model once more, from nothing, into build/testbed (20 minutes on 2 cores; resumes)
	$(RUN) testbed pretrain build/testbed
	$(RUN) testbed score build/testbed/model

clean:  ## remove the environment and tool caches; the ledger and reports stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
