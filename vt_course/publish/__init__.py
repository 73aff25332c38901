"""Notebooks: build them from their sources (py:percent text), execute them, check them, and run them as a course."""


class NotebookFailed(Exception):
    """Notebooks failed. The message says which, where and why. `rows`: the results of those that were run.

    The command line prints the message and exits with code 1.
    """

    def __init__(self, message: str, rows: list[dict]):
        super().__init__(message)
        self.rows = rows
