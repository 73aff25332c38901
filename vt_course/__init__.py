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


# ---------------------------------------------------------------- where things are
#
# The course's own files (notebooks, results) are read from one folder, `repo_root`. What a user makes is written to
# another, `own_root`. For somebody who works in a checkout of their own both are the checkout. Where the course is
# installed for many, or as a wheel, nobody but its owner may write to the first. `vt-course doctor` prints both.


def carried(course: Path | None = None) -> bool:
    """Whether the course in a folder (`repo_root()`) was installed from a wheel, which carries the files that a
    checkout has beside the package."""
    return (course or repo_root()).name == "_course"


def repo_root() -> Path:
    """The course's own files, to read: the checkout of this package, or what an installed wheel carries."""
    package = Path(__file__).resolve().parent
    return package / "_course" if (package / "_course").is_dir() else package.parent


def own_root(course: Path | None = None) -> Path:
    """What this user makes (editions, builds, clips, runs, progress) goes here: to the checkout if this user may write
    to it, else to a folder of the user's own, such as ~/.local/share/vt-course. It may not exist yet.

    course: another folder in place of `repo_root()`.
    """
    course = course or repo_root()
    if not carried(course) and os.access(course, os.W_OK):
        return course
    from platformdirs import user_data_path  # here: `import vt_course` alone needs no other package

    return user_data_path("vt-course", appauthor=False)


def own_data() -> Path:
    """Where this user's clips and weights are written: `$VT_COURSE_DATA`, else data/ of `own_root()`."""
    return Path(os.environ.get("VT_COURSE_DATA") or own_root() / "data")


def data_roots() -> list[Path]:
    """Where clips and weights are looked for: in `own_data()`, then in data/ of the course's own files, which its owner
    may have filled. `$VT_COURSE_DATA` stands alone."""
    if os.environ.get("VT_COURSE_DATA"):
        return [own_data()]
    return list(dict.fromkeys([own_data(), repo_root() / "data"]))


def data_root() -> Path:
    """The first of `data_roots()` that has the embedded clips; if none has, `own_data()`, where they will be."""
    there = (root for root in data_roots() if (root / "synthetic" / "config.json").is_file())
    return next(there, own_data())


def progress_file() -> Path | None:
    """`$VT_COURSE_PROGRESS`, else progress.csv in `own_root()`. An empty variable gives None: nothing is recorded."""
    where = os.environ.get("VT_COURSE_PROGRESS")
    if where == "":
        return None
    return Path(where) if where else own_root() / "progress.csv"


def need_own_checkout(course: Path, what: str) -> None:
    """Raise `CourseError` where `course` is not a checkout to which this user may write."""
    kind = "is what a wheel carries" if carried(course) else "is not yours to write to"
    need(
        own_root(course) == course, f"{what} needs a checkout of your own, and {course} {kind}: clone the course for it"
    )
