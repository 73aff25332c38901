"""Experiments: the rows of `experiments.yaml`, each a question that is answered by training.

rows        what a row may say, and what of it a result depends on
switches    variants that cannot differ from an earlier one are refused before any training
worker      one run, in a process of its own
run         all runs of a row: what is done is skipped, what fails is reported
results     the file results/experiments/ID.json, and the state of a row
statistics  paired differences and their intervals
verdicts    what a paper claims, what came out, and whether the two agree
"""
