"""Shared by all groups of verbs: how a verb is declared, how results are printed, and the types of arguments."""

import argparse
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from vt_course import CourseError, printable

VERBS = {}  # "data synthetic": (function, help, example, options)


def verb(words: str, help: str, example: str, *options):
    """Decorator: register a function as the verb `words`, which is one word, or a group and a word ("data stats").

    The function takes the parsed arguments and returns the exit code.
    """

    def register(run):
        VERBS[words] = run, help, example, options
        return run

    return register


def option(*names: str, **settings):
    """An option or argument of a verb, as `ArgumentParser.add_argument` takes it."""
    return lambda parser: parser.add_argument(*names, **settings)


def choice(*options, required: bool = True):
    """A group of options of which exactly one must be given, or at most one if `required` is False."""

    def add(parser):
        group = parser.add_mutually_exclusive_group(required=required)
        for one in options:
            one(group)

    return add


def print_json(value) -> None:
    print(json.dumps(value, indent=2, default=str))


def print_table(rows: list[dict], columns: dict[str, str]) -> None:
    """Print rows as a table. `columns` maps each key of the rows to its heading. Numbers are aligned to the right."""

    def text(value):
        return "" if value is None else f"{value:,.2f}" if isinstance(value, float) else printable(str(value))

    cells = [list(columns.values())] + [[text(row.get(k)) for k in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    right = [any(isinstance(row.get(k), (int, float)) for row in rows) for k in columns]
    for line in cells:
        print("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right)).rstrip())


def containing(words: list[str], names) -> list[str]:
    """The names that contain every one of `words`; case does not matter. Raises `CourseError` if there are none."""
    found = [name for name in names if all(word.lower() in name.lower() for word in words)]
    if not found:
        raise CourseError(f"No name contains {' and '.join(words)}; run the command without words to see all names.")
    return found


def command() -> str:
    """What a reader types to call this command: `vt-course` in an activated environment, else the path of its file."""
    script = Path(sys.executable).parent / ("vt-course.exe" if os.name == "nt" else "vt-course")
    found = shutil.which("vt-course")
    if not script.is_file() or found and os.path.samefile(found, script):
        return "vt-course"
    here = Path.cwd()
    return shell(script.relative_to(here) if script.is_relative_to(here) else script)


def as_typed(text: str) -> str:
    """A text with `vt-course VERB` replaced by what this reader types. Messages everywhere say `vt-course VERB`."""
    return re.sub(r"(?<![\w./\\-])vt-course(?= [a-z])", lambda _: command(), text)


def tell(note) -> None:
    """Print a note on stderr."""
    print(f"vt-course: {printable(as_typed(str(note)))}", file=sys.stderr)


def on_stderr(line: str) -> None:
    """Print a line of a long work, while it goes on. At once, as stderr may be a file."""
    print(line, file=sys.stderr, flush=True)


def shell(path) -> str:
    """A path as one word of a command line."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def leads() -> bool:
    """Whether this process prints for the whole run: under torchrun, only rank 0 does (training/ranks.py)."""
    return "LOCAL_RANK" not in os.environ or os.environ["RANK"] == "0"


def need_data() -> None:
    """Render the embedded data set if it is not there yet."""
    from vt_course.data.synthetic import render, rendered

    if not rendered("train"):
        render()


# ---------------------------------------------------------------- types of arguments


def set_sizes(text: str) -> tuple[int, ...]:
    """The argparse type of the sizes of the embedded set: TRAIN,VAL, or one number for its test clips."""
    numbers = text.split(",")
    if len(numbers) > 2 or not all(n.strip().isdecimal() for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not TRAIN,VAL, for instance 1600,400")
    return tuple(map(int, numbers))


def whole(least: int):
    """The argparse type of a whole number that is at least `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def counts(text: str) -> tuple[int, ...]:
    """The argparse type of numbers of clips: N for every split, or N,M for train and val."""
    numbers = text.split(",")
    if len(numbers) > 2 or not all(n.strip().isdecimal() and int(n) > 0 for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not N or N,M, for instance 50 or 50,20")
    return (int(numbers[0]), int(numbers[-1]))


def share(text: str) -> tuple[int, int]:
    """The argparse type of a part of the work: I/N, the I-th of N."""
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, for instance 2/10")
    return int(first), int(count)


def picture(text: str) -> Path:
    """The argparse type of a file for a figure. Its format is checked here, before the work that the figure shows."""
    from matplotlib.backend_bases import FigureCanvasBase

    path = Path(text)
    if path.suffix and path.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise argparse.ArgumentTypeError(f"{text!r} is no file for a figure: its name must end in .svg, .png or .pdf")
    return path


PART = option(
    "--part",
    type=share,
    metavar="I/N",
    help="the I-th of N parts, for array jobs; then the same command without --part checks and completes them",
)


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def number_or(word: str, least: float, most: float):
    """The argparse type of a number from `least` to `most`. `word` is also allowed, and becomes None."""

    def parse(text: str) -> float | None:
        try:
            value = least if text == word else float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is neither {word} nor a number from {least:g} to {most:g}")
        return None if text == word else value

    return parse
