# Targets a newcomer can guess. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo
.DEFAULT_GOAL := help
TORCH := $(shell grep -o '"torch[^"]*"' settings.ini)
.PHONY: help install cpu-torch demo test test-faults test-llama docs docs-serve audit lab bench bench-gpu notebooks readme models results finetuning hallucination retrieval preferences chat talk scaling laws interpret clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/library: settings.ini setup.py
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/development: settings.ini setup.py
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	-@PIP_CONSTRAINT=tools/seqeval.txt $(BIN)/python -m pip install --quiet \
	--disable-pip-version-check 'seqeval>=1.2.2,<2'   # a reference in tests; they say so where it is missing
	@if [ -d .git ]; then $(BIN)/nbdev_install_hooks && \
	git config merge.nbdev-merge.driver '.venv/bin/nbdev_merge %O %A %B %P' && \
	printf '#!/bin/sh\n[ ! -x .venv/bin/nbdev_trust ] || .venv/bin/nbdev_trust\n' > .git/hooks/post-merge; fi
	@touch .venv/library $@

install: .venv/development  ## make .venv with the library and the development tools

cpu-torch:  ## before install, on Linux without a GPU: the small build of torch (200 MB instead of 3 GB)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH) --index-url https://download.pytorch.org/whl/cpu

demo: .venv/library  ## train a small GPT on the built-in world (3 minutes) and let it write
	$(BIN)/gpt-nb demo --out $(RUN)

test: install  ## run every notebook and every test
	$(BIN)/python -m pytest -n auto --dist worksteal

test-faults: install  ## kill training runs 200 times, damage all their files, run for long (an hour)
	KILLS=200 FUZZ=100000 $(BIN)/python -m pytest tests/test_faults.py $(wildcard tests/test_fuzz.py)

test-llama: install  ## let llama.cpp read what we export (pip builds it: half an hour)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'llama-cpp-python>=0.3,<0.4'
	$(BIN)/python -m pytest tests/test_llama.py

notebooks: install  ## run all notebooks in place, keep their outputs, make README.md
	$(BIN)/python tools/execute.py --times
	$(BIN)/python tools/readme.py

readme: install  ## make README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

docs: install  ## build the site into _site/ (needs npm)
	cd docs && npm ci --no-audit --no-fund --silent
	$(BIN)/sphinx-build -q -W --keep-going -d .cache/doctrees docs _site

docs-serve: docs  ## build the site and show it at http://localhost:8000
	$(BIN)/python -m http.server --bind localhost --directory _site 8000

audit: install  ## look every installed package up among the known holes (asks pypi.org)
	@test -x .cache/audit/bin/python || $(PYTHON) -m venv .cache/audit
	.cache/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' > .cache/installed.txt
	.cache/audit/bin/pip-audit --requirement .cache/installed.txt --no-deps --disable-pip --strict \
	--progress-spinner off   # strict: what cannot be looked up is a failure too

lab: install  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs

bench: install  ## time this library beside its peers (a quarter of an hour)
	$(BIN)/python benchmarks/run.py $(if $(NANOGPT),--nanogpt $(NANOGPT))

bench-gpu: install  ## the same on a GPU
	$(BIN)/python benchmarks/run.py --device cuda $(if $(NANOGPT),--nanogpt $(NANOGPT))

models: install  ## train the house models from their seeds into gpt_nb/models/ (hours)
	$(BIN)/python tools/models.py

results: install  ## regenerate the long measurements that chapters show (hours)
	$(BIN)/python tools/results.py

finetuning: install  ## measure every row of the tables of chapters 15, 15b and 16 (hours)
	$(BIN)/python tools/results.py finetuning text stream tags prompts adapters

hallucination: install  ## measure what chapter 17c tells of facts made up, in three seeds (20 minutes)
	$(BIN)/python tools/hallucination.py

laws: install  ## measure the runs and the facts that chapter 19b tells of (half an hour)
	$(BIN)/python tools/laws.py

interpret: install  ## train the three models of chapters 13b to 13d and measure them (an hour)
	$(BIN)/python tools/interpret.py

retrieval: install  ## measure the searches of chapter 16b on shelves of 10 to 10,000 stories (10 minutes)
	$(BIN)/python tools/retrieval.py

preferences: install  ## measure the table of chapter 16c (an hour)
	$(BIN)/python tools/preferences.py

chat: install  ## teach the house model that talks, and measure what it says (hours)
	$(BIN)/python tools/chat.py

talk: install  ## measure what chapter 17b shows of talks (half an hour)
	$(BIN)/python tools/talk.py

scaling: install  ## train one model with 1, 2 and 4 processes, kill one of four (5 minutes)
	$(BIN)/python tools/scaling.py

clean:  ## remove what the targets made, runs/ excepted
	rm -rf .venv _site _proc jupyter_execute build dist *.egg-info docs/notebooks docs/node_modules docs/_static/vendor .pytest_cache .hypothesis
