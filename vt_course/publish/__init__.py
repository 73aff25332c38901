"""Notebooks: from py:percent source to executed, checked and run as a course."""


class NotebookFailed(Exception):
    """Notebooks failed: the message says which, where and why; `rows` holds what did get done.

    The command line prints the message and exits with code 1.
    """

    def __init__(self, message: str, rows: list[dict]):
        super().__init__(message)
        self.rows = rows
