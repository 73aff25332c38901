"""Grading what students hand in.

    grade.py       the batch: one row for every submission, pages for students, going on after an interruption
    submission.py  takes the functions of the exercises out of a notebook, and what they need out of the course's own
    judge.py       runs the checks on them, in a process that never runs code of a submission
    sandbox.py     a process for the code of a submission, with limits, inside bubblewrap where there is one
    runner.py      what runs in that process: it gets arguments and returns numbers; it knows no right answer
    pages.py       the page that a student gets

The code of a submission can change everything in its own process, and cannot reach any other. What comes out of it are
tensors as plain data. The judge compares them with the definition, so to pass, a submission must return the right
numbers for arguments that it has not seen.
"""
