"""Proofs and measurements: comparison with recorded outputs of the official code (`golden`), and benchmarks of models
and of reading against other libraries."""
