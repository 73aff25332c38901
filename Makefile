VT := .venv/bin/vt-course
.PHONY: help setup wheelhouse data course test test-quick lab lab-solutions build lock clean

help:        ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup:       ## make .venv from requirements.lock (TORCH=cpu: without CUDA; WHEELS=DIR: from a wheelhouse)
	@TORCH="$(TORCH)" WHEELS="$(WHEELS)" .ci/setup

wheelhouse:  ## download what set-up needs into build/wheelhouse, for machines without a network
	@TORCH="$(TORCH)" .ci/wheelhouse build/wheelhouse

data: setup  ## render the embedded data set, if absent (about 2 minutes, 100 MB)
	@$(VT) data synthetic --quiet-if-complete

course: setup  ## run every notebook in order into build/notebooks/ and print a table
	@$(VT) course $(NAMES)

test: setup  ## run all tests: rules, code, notebooks
	@$(VT) test

test-quick: setup  ## rules and quick tests, for use while working
	@$(VT) test --quick

lab: setup   ## open your notebooks in JupyterLab: the student edition, written into work/ on first use
	@$(VT) lab -- $(LAB_ARGS)

lab-solutions: setup  ## open the notebooks with solutions in JupyterLab
	@$(VT) lab --solutions -- $(LAB_ARGS)

build: setup ## execute notebooks/src/*.py into notebooks/*.ipynb
	@$(VT) build

lock: setup  ## recompile requirements.lock from pyproject.toml
	@.ci/lock

clean:       ## remove what the course makes again by itself (not work/, runs/, handouts, downloads)
	@if [ -x $(VT) ]; then $(VT) clean; else echo "there is no .venv yet: make setup"; fi
