VT := .venv/bin/vt-course
.PHONY: help setup data course test lab build lock clean

help:        ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup:       ## make .venv from requirements.lock (uv is found or bootstrapped)
	@.ci/setup

data: setup  ## render the embedded data set, if absent (about 2 minutes, 100 MB)
	@$(VT) data synthetic --quiet-if-complete

course: data ## run every notebook in order into build/notebooks/ and print a table
	@$(VT) course

test: data   ## run all tests: code, notebooks, gates
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests -n 2 --dist loadfile -q
	@$(VT) course
	.ci/nbval -q notebooks/*.ipynb

lab: data    ## open JupyterLab in notebooks/
	@.venv/bin/jupyter lab --notebook-dir=notebooks $(LAB_ARGS)

build: data  ## execute notebooks/src/*.py into notebooks/*.ipynb
	@$(VT) build

lock: setup  ## recompile requirements.lock from pyproject.toml
	@uv=$$(command -v uv || echo .uv/bin/uv); $$uv pip compile --quiet --universal --fork-strategy fewest --generate-hashes --all-extras \
	  --custom-compile-command "make lock" pyproject.toml --output-file requirements.lock

clean:       ## remove build/ (not .venv, not data/)
	@rm -rf build
