# Every target that needs the environment makes it first. `make help` lists the targets and what they cost.

PROFILE ?= tiny
# Of search and training: quick or standard (smollm2 also full); empty means quick for tables, standard for the testbed's page.
BUDGET  ?=
# Blocks such as "llm-pruner:20 shortened:50"; empty means all of the profile.
BLOCKS  ?=
# Training seeds such as "0 1 2"; empty means the budget's.
SEEDS   ?=
LEDGER  ?= ledger
REPORTS ?= reports
# A folder of <task>/<split>.jsonl, and a .jsonl of instruction rows, in place of the profile's sources.
BENCHMARKS    ?=
RECOVERY_DATA ?=

# Ranks of one more row, one a layer of the unpruned model: "8 8 4 12 ...".
ALLOCATION    ?=

# Of ablations, such as "scaling signal"; empty means all nine.
ABLATION ?=
# A table that rank-table made, for search-report; empty means the committed one.
TABLE   ?=
# Of the benchmarks of pruning, evaluation, recovery and trials.
BENCH_PROFILE ?= smollm2
# How many processes compute; empty: the profile's number, or one a GPU.
WORKERS ?=
# Where: local (this machine), or ray (the cluster of RAY_ADDRESS, or one that is started here).
EXECUTOR ?= local
# A folder, or ORGANISATION/NAME@COMMIT, in place of a base model of the hub.
MODEL ?=
# Set, to rehearse the very shape of a profile, on one GPU.
FULL_SIZE ?=
export RANKADAPTOR_MODEL := $(MODEL)
export RANKADAPTOR_WORKERS := $(WORKERS)
export RANKADAPTOR_EXECUTOR := $(EXECUTOR)

PYTHON ?= python3
VENV   := .venv
READY  := $(VENV)/.ready
RUN    := $(VENV)/bin/python -m rankadaptor
OPTIONS = --profile "$(PROFILE)" --blocks "$(BLOCKS)" --budget "$(BUDGET)" --seeds "$(SEEDS)" --ledger "$(LEDGER)" \
          --reports "$(REPORTS)" --benchmarks "$(BENCHMARKS)" --recovery-data "$(RECOVERY_DATA)" \
          --allocation "$(ALLOCATION)"

.DEFAULT_GOAL := help
.PHONY: help setup test test-gpu lint reproduce-all report lab plan-figure2 reproduce-figure2 plan-table1 reproduce-table1 plan-table2 \
  reproduce-table2 plan-table4 reproduce-table4 plan-table5 reproduce-table5 plan-table6 reproduce-table6 \
  plan-figure5 reproduce-figure5 reproduce-figure6 plan-table3 reproduce-table3 plan-ablations reproduce-ablations \
  plan-testbed reproduce-testbed plan-pruning reproduce-pruning rank-table search-report plan-rivals reproduce-rivals bench-pruning \
  bench-evaluation bench-recovery bench-trials rehearse torture torture-ray audit pretrain-testbed clean

help:  ## list the targets and what they cost
	@echo "RankAdaptor, reproduced. Two commands on a fresh machine: make reproduce-table2, make test."
	@echo
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo
	@echo "Variables: PROFILE=$(PROFILE) BLOCKS='$(BLOCKS)' BUDGET=$(BUDGET) SEEDS='$(SEEDS)' LEDGER=$(LEDGER) REPORTS=$(REPORTS)"
	@echo "           BENCHMARKS='$(BENCHMARKS)' RECOVERY_DATA='$(RECOVERY_DATA)' ALLOCATION='$(ALLOCATION)' PYTHON=$(PYTHON)"
	@echo "           EXECUTOR=$(EXECUTOR) WORKERS=$(WORKERS) MODEL=$(MODEL) FULL_SIZE=$(FULL_SIZE)"
	@echo "           BENCH_PROFILE=$(BENCH_PROFILE) (benchmarks of tiny take two minutes at most and download nothing)"

setup: $(READY)  ## make .venv and install the lock (2-5 minutes, 2 GB; more where torch brings CUDA)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

test: $(READY)  ## run the tests (4 to 6 minutes on 2 cores, offline)
	$(VENV)/bin/python -m pytest

test-gpu: $(READY)  ## what a GPU computes, against a CPU (a minute, where there is one)
	GPU_TESTS=1 $(VENV)/bin/python -m pytest -n0 tests/test_gpu.py

lint: $(READY)  ## ruff and mypy (seconds)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

reproduce-all: $(READY)  ## every table and figure and the report page, on one profile (25 minutes on 2 cores; resumes)
	@$(RUN) reproduce all $(OPTIONS) --ablation "$(ABLATION)" --rank-table "$(TABLE)"

report: $(READY)  ## the report page, reports/PROFILE/index.html, over what was reproduced so far (seconds)
	@$(RUN) report --profile "$(PROFILE)" --reports "$(REPORTS)"

lab: $(READY)  ## open the notebooks in JupyterLab
	$(VENV)/bin/jupyter lab notebooks

plan-figure2 plan-table1 plan-table2 plan-table4 plan-table5 plan-table6 plan-figure5 plan-table3: plan-%: $(READY)
	@$(RUN) plan $* $(OPTIONS)

reproduce-figure2: $(READY)  ## Figure 2, LoRA against LoRA* and controls, on one block (3 minutes on 2 cores; resumes)
	@$(RUN) reproduce figure2 $(OPTIONS)

reproduce-table1: $(READY)  ## Table 1, LoRA against AdaLoRA, and where its ranks went, on one block (a minute)
	@$(RUN) reproduce table1 $(OPTIONS)

plan-table2: $(READY)  ## print what Table 2 would run and cost; computes nothing (seconds); plan-figure2 and others alike

reproduce-table2: $(READY)  ## Table 2 into reports/ (7 to 12 minutes on 2 cores as set by default; resumes)
	@$(RUN) reproduce table2 $(OPTIONS)

reproduce-table3: $(READY)  ## Table 3's four ablations, on one block (10 minutes on 2 cores)
	@$(RUN) reproduce table3 $(OPTIONS)

plan-ablations: $(READY)  ## print what the ablations would run and cost (seconds)
	@$(RUN) plan ablations $(OPTIONS) --ablation "$(ABLATION)"

reproduce-ablations: $(READY)  ## all nine ablations, or ABLATION="scaling signal", on one block (a quarter of an hour on 2 cores)
	@$(RUN) reproduce ablations $(OPTIONS) --ablation "$(ABLATION)"

reproduce-table4: $(READY)  ## the same rows beside Table 4 (Vicuna-7B); costs what Table 2 costs, or nothing after it
	@$(RUN) reproduce table4 $(OPTIONS)

reproduce-table5: $(READY)  ## the same rows beside Table 5 (LLaMA-13B)
	@$(RUN) reproduce table5 $(OPTIONS)

reproduce-table6: $(READY)  ## Table 6, no recovery, with perplexities, into reports/ (a minute on 2 cores; smollm2 15 minutes)
	@$(RUN) reproduce table6 $(OPTIONS)

reproduce-figure5: $(READY)  ## Figures 5 and 6, what recovered models write, on one block (2 minutes on 2 cores)
	@$(RUN) reproduce figure5 $(OPTIONS)

reproduce-figure6: reproduce-figure5  ## the same page: article continuation and step listing stand side by side

plan-testbed: $(READY)  ## print what the testbed's page would run and cost (seconds)
	@$(RUN) plan testbed $(OPTIONS)

reproduce-testbed: $(READY)  ## what pruning costs and recovery wins on the testbed, and its spread over noise (half an hour)
	@$(RUN) reproduce testbed $(OPTIONS)

plan-pruning: $(READY)  ## print what the pruning page would run and cost (seconds)
	@$(RUN) plan pruning $(OPTIONS)

reproduce-pruning: $(READY)  ## which units pruning takes and what that costs, drawn (a minute on 2 cores; smollm2 5 minutes)
	@$(RUN) reproduce pruning $(OPTIONS)

rank-table: $(READY)  ## measure the table that searches are replayed on, into build/ (two hours on 2 cores; resumes)
	@$(RUN) rank-table --profile "$(PROFILE)" --ledger "$(LEDGER)" --out build/rank_table.parquet

search-report: $(READY)  ## searches, rivals and predictors, replayed from the committed table (3 minutes on 2 cores)
	@$(RUN) reproduce search --profile "$(PROFILE)" --blocks "$(BLOCKS)" --rank-table "$(TABLE)" --reports "$(REPORTS)" --ledger "$(LEDGER)"

plan-rivals: $(READY)  ## print what the rivals' page would run and cost (seconds)
	@$(RUN) plan rivals $(OPTIONS)

reproduce-rivals: $(READY)  ## every rival at the search's budget, really recovered, on one block (20 minutes on 2 cores)
	@$(RUN) reproduce rivals $(OPTIONS)

bench-pruning: $(READY)  ## memory and time of importance against the plain way (6 minutes; downloads 105 MB)
	@$(VENV)/bin/python benchmarks/pruning.py --profile "$(BENCH_PROFILE)"

bench-evaluation: $(READY)  ## our scoring against lm-eval's own backend (half an hour; downloads 238 MB)
	@$(VENV)/bin/python benchmarks/evaluation.py --profile "$(BENCH_PROFILE)" --ledger "$(LEDGER)"

bench-recovery: $(READY)  ## our recovery loop against transformers' Trainer (16 minutes); RECOVERY_DATA=alpaca.jsonl
	@$(VENV)/bin/python benchmarks/recovery.py --profile "$(BENCH_PROFILE)" --data "$(RECOVERY_DATA)" --ledger "$(LEDGER)"

bench-trials: $(READY)  ## what a trial costs by stage, and how that grows with the model and the items (6 minutes)
	@$(VENV)/bin/python benchmarks/trials.py --profile "$(BENCH_PROFILE)" --ledger "$(LEDGER)"
	@$(VENV)/bin/python benchmarks/trials.py --growth

rehearse: $(READY)  ## PROFILE=llama-7b through every stage, on a narrow copy with random weights (5 minutes on 2 cores)
	@$(RUN) rehearse --profile "$(if $(filter tiny,$(PROFILE)),llama-7b,$(PROFILE))" --blocks "$(BLOCKS)" $(if $(FULL_SIZE),--full-size)

torture: $(READY)  ## kill a run 20 times, and compare with one that was left alone (10 minutes)
	@$(VENV)/bin/python benchmarks/torture.py

torture-ray: $(READY)  ## a table on two Ray nodes, one killed, the head killed and started again (5 minutes)
	@$(VENV)/bin/python benchmarks/ray_nodes.py

audit: $(READY)  ## known vulnerabilities of the locked packages (a minute; asks PyPI, and fails where it is not told)
	@$(VENV)/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict

pretrain-testbed: $(READY)  ## the embedded model once more, from nothing, into build/testbed (20 minutes on 2 cores; resumes)
	$(VENV)/bin/python -m rankadaptor.testbed pretrain build/testbed
	$(VENV)/bin/python -m rankadaptor.testbed score build/testbed/model

clean:  ## remove the environment and tool caches; the ledger and reports stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
