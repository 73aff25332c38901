"""`vt-course VERB`: the only command of the course. A verb parses arguments, calls a function and prints the result.

Each group of verbs is a file, in which each verb stands together with its options. torch is imported only when a verb
needs it, so that `--help` is quick.

Exit codes: 0 done; 1 something that was checked is wrong (such as a failing notebook); 2 a mistake that the user can
mend (one sentence on stderr); 130 interrupted; 141 the reader of our output has ended (as in `| head`).
"""

import argparse
import os
import sys

import vt_course
from vt_course import CourseError, __version__
from vt_course.cli import claims, course, data, training  # noqa: F401 (importing them registers their verbs)
from vt_course.cli.common import VERBS, leads, print_json
from vt_course.publish import NotebookFailed

# This must be set before torch starts its threads. They then sleep while they wait. Without it they spin, and on a
# small machine take most of the CPU from the processes of the data loader.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

GROUPS = {  # name of a group: (help, example)
    "data": ("Make, fetch, prepare and check data.", "vt-course data synthetic"),
    "bench": ("Measure.", "vt-course bench decode clip.mp4"),
    "weights": ("Official weights.", "vt-course weights list"),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="vt-course", description=vt_course.__doc__, epilog="`vt-course VERB --help` shows an example of each verb."
    )
    top.add_argument("--version", action="version", version=f"vt-course {__version__}")
    verbs, groups = top.add_subparsers(metavar="VERB", required=True), {}
    for words, (run, help, example, options) in VERBS.items():
        group, _, name = words.rpartition(" ")
        if group and group not in groups:
            help_of_group, example_of_group = GROUPS[group]
            groups[group] = verbs.add_parser(
                group, help=help_of_group, description=help_of_group, epilog=f"example: {example_of_group}"
            ).add_subparsers(metavar="WHAT", required=True)
        p = groups.get(group, verbs).add_parser(name, help=help, description=help, epilog=f"example: {example}")
        p.set_defaults(verb=run)
        p.add_argument("--json", action="store_true", help="print the result as JSON, nothing else")
        for add in options:
            add(p)
    return top


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # so that printing never fails: a pipe on Windows has 256 characters
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
    except BrokenPipeError:  # before OSError, of which it is a subclass
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # because Python flushes stdout at exit
        return 141
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        print(
            f"vt-course:{name}: {error.strerror or error}; check the path, its permissions and the free space.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        if leads():
            print("vt-course: interrupted", file=sys.stderr)
        return 130
