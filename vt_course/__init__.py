"""Video and image transformers, built from scratch in notebooks and proven against the real thing."""

import os
from pathlib import Path

__version__ = "0.3.0"


class CourseError(ValueError):
    """A mistake the user can mend. The message is one sentence that names the input and the remedy.

    The command line prints it without a traceback and exits with code 2. A message may quote a file, a name or a
    server, so characters that would steer a terminal are written as escapes.

    `speaks`: of several processes, whether this one prints it. None: the first of them does (training/ranks.py).
    """

    speaks: bool | None = None

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """A text in which every character that cannot be seen (escape sequences, line ends, marks of direction, lone
    surrogates) is written as in Python: \\x1b."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def need(good, sentence: str) -> None:
    """Raise `CourseError(sentence)` unless `good`."""
    if not good:
        raise CourseError(sentence if sentence.endswith(".") else sentence + ".")


def closest(name: str, names) -> str:
    """The end of a sentence on an unknown name: "did you mean ...?" with the closest of `names`, else all of them."""
    from difflib import get_close_matches

    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"


def repo_root() -> Path:
    """The checkout this package belongs to, or the current folder for an installed copy."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "notebooks").is_dir() and (root / "pyproject.toml").is_file() else Path.cwd()


def data_root() -> Path:
    """Where generated and downloaded clips live: `$VT_COURSE_DATA`, else `data/` of the checkout."""
    return Path(os.environ.get("VT_COURSE_DATA") or repo_root() / "data")
