"""For those who teach: plans of lessons, sheets, questions. All of it is read from the notebooks."""
