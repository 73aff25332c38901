"""`vt-course VERB`: the one command-line entry. Verbs parse, call and print; the work is done elsewhere.

Each group of verbs is a file, and each verb stands there with its options. Nothing here imports torch before a verb needs it.

Exit codes: 0 done, 1 something that was checked is wrong (a failing notebook), 2 input that the user can mend
(one sentence on stderr), 130 interrupted, 141 whoever read our output is gone (as in `| head`).
"""
import argparse
import os
import sys

import vt_course
from vt_course import CourseError, __version__
from vt_course.publish import NotebookFailed

from . import claims, course, data, training          # noqa: F401 (their verbs register themselves)
from .common import VERBS, leads, print_json

# Before torch starts its threads: let them sleep while they wait, or training with a loader beside it loses
# most of a small machine to spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

GROUPS = {          # word: help, example
    "data": ("Make, fetch, prepare and check data.", "vt-course data synthetic"),
    "bench": ("Measure.", "vt-course bench decode clip.mp4"),
    "weights": ("Official weights.", "vt-course weights list"),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="vt-course", description=vt_course.__doc__,
                                  epilog="`vt-course VERB --help` shows an example of each verb.")
    top.add_argument("--version", action="version", version=f"vt-course {__version__}")
    verbs, groups = top.add_subparsers(metavar="VERB", required=True), {}
    for words, (run, help, example, options) in VERBS.items():
        group, _, name = words.rpartition(" ")
        if group and group not in groups:
            help_of_group, example_of_group = GROUPS[group]
            groups[group] = verbs.add_parser(group, help=help_of_group, description=help_of_group, epilog=f"example: {example_of_group}") \
                .add_subparsers(metavar="WHAT", required=True)
        p = groups.get(group, verbs).add_parser(name, help=help, description=help, epilog=f"example: {example}")
        p.set_defaults(verb=run)
        p.add_argument("--json", action="store_true", help="print the result as JSON, nothing else")
        for add in options:
            add(p)
    return top


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):      # a pipe on Windows knows 256 characters; a name need not be valid anywhere
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = args.verb(args)
        sys.stdout.flush()
        return code
    except NotebookFailed as error:
        if args.json:
            print_json(error.rows)
        print(error, file=sys.stderr)
        return 1
    except CourseError as error:
        if leads():
            print(f"vt-course: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:                      # an OSError: must come before it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())        # for the flush at exit
        return 141
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        print(f"vt-course:{name}: {error.strerror or error}; check the path, its permissions and the free space.",
              file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if leads():
            print("vt-course: interrupted", file=sys.stderr)
        return 130
