# The two commands of the README. Each makes its environment first if there is none.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
CORES ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPING := $(VENV)/.developing

.PHONY: quick demo test test-slow test-slurm style check clean

quick: $(INSTALLED)  ## Run every rule once on very few images, and write the page.
	. $(BIN)/activate && snakemake --cores $(CORES) --configfile config/quick.yaml
	$(BIN)/ttsnap summary results/quick

demo: $(INSTALLED)  ## Run the whole pipeline on the embedded default, and write the page.
	. $(BIN)/activate && snakemake --cores $(CORES)
	$(BIN)/ttsnap summary results/shapes

test: $(DEVELOPING)  ## Run the tests.
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile

test-slow: $(DEVELOPING)  ## Run the tests that take minutes, some in environments of their own.
	$(BIN)/python -m pytest -m slow

test-slurm: $(DEVELOPING)  ## Run the tests on a Slurm cluster of this machine (installs Slurm; root).
	$(BIN)/python -m pytest -m slurm tests/slurm

check: $(DEVELOPING)  ## Check style, types and the workflow.
	. $(BIN)/activate && ruff check . && ruff format --check . && mypy ttsnap && codespell \
	&& snakefmt --check Snakefile rules && snakemake --lint

style: $(DEVELOPING)  ## Rewrite the sources in the project's style.
	. $(BIN)/activate && ruff check --fix . && ruff format . && snakefmt Snakefile rules

clean:  ## Remove the environment; results stay.
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --progress-bar off -c constraints.txt -e .
	touch $@

$(DEVELOPING): $(INSTALLED)
	$(BIN)/pip install --progress-bar off -c constraints.txt -e ".[dev,judges,s3,slurm]"
	touch $@
