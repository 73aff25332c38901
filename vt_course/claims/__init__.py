"""Measuring and proving: recorded outputs of the official code (`golden`), the speed of models and of reading beside other libraries."""
