"""The ledger: what five papers claim, each with a function that tries it. `vt-course claims`."""
