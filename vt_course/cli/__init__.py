"""`vt-course VERB`: the only command of the course. A verb parses arguments, calls a function and prints the result.

Each group of verbs is a file, in which each verb stands together with its options. torch is imported only when a verb
needs it, so that `--help` is quick.

Exit codes: 0 done; 1 something that was checked is wrong (such as a failing notebook); 2 a mistake that the user can
mend (one sentence on stderr); 130 interrupted; 141 the reader of our output has ended (as in `| head`).
"""

import argparse
import difflib
import os
import shutil
import sys
import textwrap

import vt_course
from vt_course import CourseError, __version__, need
from vt_course.cli import claims, course, data, evaluate, export, grading, ledger, teaching, training  # noqa: F401 (they register verbs)
from vt_course.cli.common import VERBS, as_typed, command, leads, print_json, tell
from vt_course.publish import NotebookFailed

# This must be set before torch starts its threads. They then sleep while they wait. Without it they spin, and on a
# small machine take most of the CPU from the processes of the data loader.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Our sentence says that another process is lost. torch warns of it, too, with pages of addresses.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

SHARED = ("train", "evaluate", "predict")  # the verbs that share their work between the processes of torchrun

GROUPS = {  # name of a group: (help, example)
    "data": ("Make, fetch, prepare and check data.", "vt-course data synthetic"),
    "bench": ("Measure speed and memory, beside other libraries.", "vt-course bench decode clip.mp4"),
    "weights": ("List the published weights, download them.", "vt-course weights list"),
}
SECTIONS = {  # of the list of verbs
    "Learn": ("lab", "open", "student", "progress", "course", "doctor", "clean"),
    "Train": ("data", "recipes", "train", "evaluate", "predict", "explain", "experiments"),
    "Models": ("models", "claims", "weights", "export", "verify", "bench", "gpu-report"),
    "Teach": ("slides", "handout", "pages", "release", "grade"),
    "Authors": ("build", "test"),
}


class Parser(argparse.ArgumentParser):
    """A parser of verbs that answers a missing verb with its help, and an unknown one with those that look like it."""

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        group = words[0] if words and words[0] in GROUPS else ""
        rest = words[1:] if group else words
        if not rest:
            asked = self.groups[group] if group else self
            asked.print_help(sys.stderr)
            asked.exit(2, f"\n{asked.prog}: error: name one of those above\n")
        phrase = f"{group} {rest[0]}".strip()
        if not rest[0].startswith("-") and phrase not in VERBS and phrase not in GROUPS:
            close = meant(rest[0], group) or meant(phrase)
            hint = f"did you mean {' or '.join(close)}?" if close else f"see `{command()} --help`"
            self.error(f"there is no verb {phrase!r}; {hint}")
        return super().parse_args(args, namespace)


def meant(typed: str, group: str = "") -> list[str]:
    """The verbs (of a group) that `typed` looks like. Of a verb of two words, the last one alone is enough."""
    typed = typed.lower().replace("-", " ").replace("_", " ")
    if typed in VERBS or typed in GROUPS:
        return [typed]
    names = {}
    for phrase in (*VERBS, *GROUPS):
        if phrase.startswith(f"{group} " if group else ""):
            for name in {phrase, phrase.split()[-1]}:
                names.setdefault(name, []).append(phrase)
    close = [typed] if typed in names else difflib.get_close_matches(typed, names, 2)
    found = dict.fromkeys(phrase for name in close for phrase in names[name])
    whole = [phrase for phrase in found if phrase in close]  # `train` rather than `bench train` for "trian"
    return whole or list(found)


def list_of_verbs() -> str:
    """The verbs with what they do, by section, as wide as the terminal."""
    helps = {words: help for words, (_, help, *_) in VERBS.items()} | {name: help for name, (help, _) in GROUPS.items()}
    width = max(40, shutil.get_terminal_size().columns - 2)
    lines = []
    for section, verbs in SECTIONS.items():
        lines += ["", f"{section}:"]
        for verb in verbs:
            lines += textwrap.wrap(helps[verb], width, initial_indent=f"  {verb:<13}", subsequent_indent=15 * " ")
    return "\n".join(lines).strip()


def parser() -> argparse.ArgumentParser:
    end = f"`{command()} VERB --help` shows an example of each verb."
    if command() != "vt-course":
        end += "\nExamples say `vt-course`, which is enough in an activated environment."
    top = Parser(
        prog="vt-course",
        description=f"{vt_course.__doc__}\n\n{list_of_verbs()}",
        epilog=end,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vt-course {__version__}")
    verbs = top.add_subparsers(metavar="VERB", required=True, help="see above", parser_class=argparse.ArgumentParser)
    top.groups, groups = {}, {}
    for words, (run, help, example, options) in VERBS.items():
        group, _, name = words.rpartition(" ")
        if group and group not in groups:
            help_of_group, example_of_group = GROUPS[group]
            top.groups[group] = verbs.add_parser(
                group, description=help_of_group, epilog=f"example: {example_of_group}"
            )
            groups[group] = top.groups[group].add_subparsers(metavar="WHAT", required=True)
        listed = {"help": help} if group else {}  # `list_of_verbs` lists the others
        p = groups.get(group, verbs).add_parser(name, description=help, epilog=f"example: {example}", **listed)
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
        need(
            "LOCAL_RANK" not in os.environ  # else torchrun has started this process
            or os.environ["WORLD_SIZE"] == "1"
            or args.verb not in [run for name, (run, *_) in VERBS.items() if name not in SHARED],
            f"torchrun starts several processes, which only {', '.join(SHARED)} share: run this command without it",
        )
        code = args.verb(args)
        sys.stdout.flush()
        return code
    except NotebookFailed as error:
        if args.json:
            print_json(error.rows)
        print(as_typed(str(error)), file=sys.stderr)
        return 1
    except CourseError as error:
        if leads() if error.speaks is None else error.speaks:
            tell(error)
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
