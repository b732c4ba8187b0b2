# Two commands for a newcomer: `make quickstart` and `make test`. Both make .venv and install into it first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICK ?= quickstart

.PHONY: install quickstart test test-kill test-cluster test-long test-s3 fuzz lint bench bench-peers bench-gpu

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else "Python must be 3.11, 3.12 or 3.13, got %d.%d; run make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# From nothing to a report: real WFDB files (synthetic hearts), shards, one pretraining, three seeds with it and three without.
quickstart: install
	rm -rf $(QUICK)
	$(BIN)/ecgray synthesise ambulatory $(QUICK)/ambulatory --patients 24 --segments-per-patient 2 --segment-seconds 600 --seed 1
	$(BIN)/ecgray synthesise labelled $(QUICK)/labelled --records 400 --seed 2
	$(BIN)/ecgray ingest synthetic $(QUICK)/ambulatory --out $(QUICK)/shards/ambulatory
	$(BIN)/ecgray ingest synthetic $(QUICK)/labelled --out $(QUICK)/shards/labelled
	$(BIN)/ecgray inspect $(QUICK)/shards/ambulatory --html $(QUICK)/ambulatory.html
	$(BIN)/ecgray pretrain weimann2021_beat --data $(QUICK)/shards/ambulatory --out $(QUICK)/runs/beat \
	    --model.width 16 --training.steps 300 --training.validate-every 100 --training.checkpoint-every 100 --sampling.val-fraction 0.2
	$(BIN)/ecgray finetune weimann2021_table1_none --data $(QUICK)/shards/labelled --pretrained none \
	    --out $(QUICK)/runs/none $(QUICK_FINETUNE)
	$(BIN)/ecgray finetune weimann2021_cinc2017 --data $(QUICK)/shards/labelled --pretrained $(QUICK)/runs/beat \
	    --out $(QUICK)/runs/from-beat $(QUICK_FINETUNE)
	$(BIN)/ecgray report $(QUICK)/runs/none $(QUICK)/runs/from-beat --out $(QUICK)/report
	@echo "Open $(abspath $(QUICK))/report/report.html"

QUICK_FINETUNE := --seeds 3 --model.width 16 --data.seconds 10 --protocol.epochs 12

# Tests wait for processes more than they compute: two at a time take half the time on two cores. In the order of
# folders, so that the longest file, of clusters, is not the last.
test: install lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -rs

# SIGKILL in many places, of one worker and of all, every task, 0 to 3 workers, and 1 to 3 on Ray: equal to the bit.
test-kill: install
	$(BIN)/python benchmarks/continuation.py --ray 1,2,3

# Clusters of several machines, made of network namespaces: nodes killed, cut off and taken back, `ray up` over ssh. Root.
test-cluster: install
	$(BIN)/python -m pytest tests/cluster -m "slow or not slow" --durations=0 -rs

# Damaged files of every kind, drawn from a seed and led by coverage; and every record that is here against wfdb.
fuzz: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python tests/fuzz/run.py --inputs 100000
	$(BIN)/python tests/fuzz/run.py --inputs 100000 --coverage
	ECGRAY_LONG=1 $(BIN)/python -m pytest tests/databases/test_wfdb_annotations.py tests/databases/test_wfdb_signal.py

# What takes minutes and is run for every change all the same: sweeps and trials that are killed, workers and their driver
# told to leave.
test-long: install
	$(BIN)/python -m pytest -rs -m slow tests/search tests/training \
	    tests/cluster/test_faults.py::test_a_worker_that_gets_sigterm_saves_and_leaves

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Real recordings (icentia11k/, mitdb/, cinc2017/), where they are on this machine.
ECGRAY_DATA ?= $(HOME)/.cache/ecgray-data

# Each prints a table with its bars and keeps it as JSON in benchmarks/results/.
bench: install
	$(BIN)/python benchmarks/stream.py
	$(BIN)/python benchmarks/labelling.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/beside.py
	@if [ -d $(ECGRAY_DATA)/mitdb ]; then $(BIN)/python benchmarks/ingest.py $(ECGRAY_DATA); else echo "Ingest is measured on real recordings: none in $(ECGRAY_DATA)."; fi
	$(BIN)/python benchmarks/finetune.py
	$(BIN)/python benchmarks/memory.py

# litdata and mosaicml-streaming, which want other versions than ours, in an environment of their own.
PEERS := .venv-peers

bench-peers: install $(PEERS)/.installed
	$(BIN)/python benchmarks/stream.py --peers $(PEERS)/bin/python --settings 2048

$(PEERS)/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt
	@touch $@

bench-gpu: install
	$(BIN)/python benchmarks/gpu.py

# The whole way on object storage, against a real S3 server on loopback: shards, runs, a kill, a resume, seeds, a report.
test-s3: install
	$(BIN)/python benchmarks/on_s3.py
