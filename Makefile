# make report   the whole study of params.yaml, from nothing to results/report/index.html
# make test     every test
# make test-fast   what takes no Snakemake, DVC or Slurm: under three minutes, for each change
# make test-slurm   the cluster profile against a Slurm that it starts on this machine (root, Debian; minutes)
# make test-chaos   kills, damage and mutations in a loop, KILLS of each (default 100; hours on two cores)
# make test-snakemake-versions   the workflow with the oldest Snakemake that is allowed and with the newest (half an hour)
# make test-served   trained cells behind a real server, `transformers serve`
# make test-families  released families whose processors need torchvision, in an environment made for it
# make demo-measure   the trained cells asked as released models are, after make report: to build/demo-measure/measured/index.html
# make setup    just the environment, .venv; then `.venv/bin/snakemake --cores N` is the native way in
# make docs     the docs as a site, build/docs/index.html; its search wants a server: python -m http.server -d build/docs
# make bench    what the docs quote: overhead of the workflow, and more
# make clean-env  remove .venv
# On a CUDA machine: make report LOCK=envs/cuda.txt

PYTHON ?= python3
LOCK ?= envs/cpu.txt
CORES ?= all
EXPERIMENT ?= params.yaml

VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint $(LOCK) --editable

# What falls to chance, again and again: kills at random moments, damaged files, mutated inputs. KILLS=100 by default.
KILLS ?= 100
test-chaos: $(VENV)/stamp-test
	VLMLAW_CHAOS=$(KILLS) $(BIN)/python -m pytest -n 0 -s -m "slow or not slow" tests/chaos tests/workflow/test_damage.py tests/workflow/test_interruptions.py

.PHONY: test-chaos setup report demo-measure test test-fast test-slurm test-snakemake-versions test-served test-families docs bench lock clean-env

setup: $(VENV)/stamp-workflow

report: setup
	@$(BIN)/python -m vlmlaw experiment check $(EXPERIMENT) >/dev/null
	$(BIN)/snakemake --cores $(CORES) --configfile $(EXPERIMENT)
	@$(BIN)/python -m vlmlaw summary $(EXPERIMENT)

demo-measure: setup
	@$(BIN)/python workflow/demo_measure.py $(EXPERIMENT)

# The examples in docstrings come first: they take seconds, and `.ci/run` reads the last line, the summary of the tests.
DOCTESTS := src/vlmlaw/laws src/vlmlaw/compressors src/vlmlaw/vlm
test: $(VENV)/stamp-test
	$(BIN)/python -m pytest --quiet --doctest-modules $(DOCTESTS)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/stamp-test
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not workflow and not slow and not slurm and not versions"

test-slurm: $(VENV)/stamp-test
	$(BIN)/python -m pytest -m slurm tests/slurm

docs: $(VENV)/stamp-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --config-file docs/site/mkdocs.yml

# Each Snakemake has an environment of its own, which finds all other packages in .venv.
SNAKEMAKE_TESTS := $(addprefix tests/workflow/test_,snakemake_patches.py changes.py interruptions.py two_runs.py)
test-snakemake-versions: $(VENV)/stamp-test
	@oldest=$$(sed -n 's/.*"snakemake>=\([0-9.]*\)".*/\1/p' pyproject.toml); \
	site='import site; print(site.getsitepackages()[0])'; \
	for wanted in "snakemake==$$oldest" snakemake; do \
	    folder=$$(mktemp -d) && $(BIN)/python -m venv $$folder && \
	    $$folder/bin/python -m pip install --quiet --no-deps "$$wanted" && \
	    echo "import site; site.addsitedir('$$($(BIN)/python -c "$$site")')" >"$$($$folder/bin/python -c "$$site")/rest.pth" && \
	    $$folder/bin/python -m pip install --quiet "$$wanted" && \
	    echo "== Snakemake $$($$folder/bin/python -m snakemake --version)" && \
	    $$folder/bin/python -m pytest -m "not slurm" $(SNAKEMAKE_TESTS); \
	    failed=$$?; rm -rf $$folder; [ $$failed = 0 ] || exit $$failed; \
	done

# `transformers serve` has packages of its own: an environment for them, which finds all others in .venv.
test-served: $(VENV)/stamp-test
	@site='import site; print(site.getsitepackages()[0])'; folder=$$(mktemp -d) && \
	$(BIN)/python -m venv --without-pip $$folder && \
	echo "import site; site.addsitedir('$$($(BIN)/python -c "$$site")')" >"$$($$folder/bin/python -c "$$site")/rest.pth" && \
	$(BIN)/python -m pip --python $$folder/bin/python install --quiet --constraint $(LOCK) "transformers[serving]" && \
	$$folder/bin/python -m pytest -n 0 tests/evaluation/backends/test_served_cells.py; \
	failed=$$?; rm -rf $$folder; exit $$failed

# First releases of torch and torchvision that fit each other, then everything else as it is locked.
TORCHVISION ?= torch torchvision
FAMILY_TESTS := backends/test_checkpoint.py backends/test_compressed.py test_token_costs.py
test-families: $(VENV)/stamp-test
	@site='import site; print(site.getsitepackages()[0])'; folder=$$(mktemp -d) && \
	$(BIN)/python -m venv --without-pip $$folder && \
	$(BIN)/python -m pip --python $$folder/bin/python install --quiet $(TORCHVISION) num2words && \
	echo "import site; site.addsitedir('$$($(BIN)/python -c "$$site")')" >"$$($$folder/bin/python -c "$$site")/rest.pth" && \
	$$folder/bin/python -m pytest -n 0 $(addprefix tests/evaluation/,$(FAMILY_TESTS)); \
	failed=$$?; rm -rf $$folder; exit $$failed

bench: setup
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

lock: $(VENV)/stamp-test
	$(BIN)/python -m pip install --quiet uv
	PATH=$(CURDIR)/$(BIN):$$PATH envs/lock.sh

clean-env:
	rm -rf $(VENV)

# A stamp is newer than the lock it was installed from, or the installation is done again.
$(VENV)/stamp-workflow: $(LOCK) pyproject.toml | $(BIN)/python
	$(INSTALL) '.[workflow]'
	@touch $@

$(VENV)/stamp-test: $(LOCK) pyproject.toml | $(BIN)/python
	$(INSTALL) '.[test]'
	@touch $@ $(VENV)/stamp-workflow

$(VENV)/stamp-docs: $(LOCK) pyproject.toml | $(BIN)/python
	$(INSTALL) '.[docs]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "vlmlaw needs Python 3.11 or later; $(PYTHON) is older or missing. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
