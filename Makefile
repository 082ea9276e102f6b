# make reproduce [PROFILE=smoke|cpu|paper] [ANEW=1]
#                                            train what is missing (ANEW: all), execute the
#                                            notebooks, build the site
# make test                                  the gates, every notebook, and tests/
# make faults                                kills, damaged files, failing disks, power cuts: a table of
#                                            tried, held and failed, in about ten minutes
# make benchmark                             speed and memory beside others, into results/benchmark.json
# make test-slurm                            the smoke grids on a real SLURM of one node; as root, on Debian

PROFILE ?= smoke
PYTHON ?= python3
BIN := .venv/bin

.PHONY: reproduce test faults test-slurm readme benchmark clean

reproduce: .venv/.installed
	@$(BIN)/vcae run --all --profile $(PROFILE) $(if $(ANEW),--anew)

test: .venv/.installed
	@$(BIN)/python -m pytest -q -n 2 tests

faults: .venv/.installed
	@$(BIN)/python tests/faults.py
	@FAULTS=1 $(BIN)/python -m pytest -q tests/test_verify.py

test-slurm: .venv/.installed
	@$(BIN)/python tests/slurm/run.py

readme: .venv/.installed
	@$(BIN)/python -c "from vcae_nb.book.site import write_readme; write_readme()"

benchmark: .venv/.installed
	@$(BIN)/python benchmarks/run.py

# Everything in one pip command, or the pins of nbdev's companions are not seen together.
.venv/.installed: constraints.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"vcae_nb needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}; name another with PYTHON=python3.12")'
	@echo "installing into .venv (once; a few minutes and a few GB, most of it torch)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf _proc _site .vcae results/smoke
