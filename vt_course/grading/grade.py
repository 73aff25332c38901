"""A batch of submissions: one row for each, always.

Each submission is read and judged in a process of its own. So whatever a file does to a parser, or a result to a check,
the batch goes on, and the row says what happened.
"""

import csv
import hashlib
import io
import json
import multiprocessing
import os
import re
import secrets
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vt_course import CourseError, __version__, need, printable, repo_root
from vt_course.files import alone, atomic_write, csv_header, parse_json, read_lines, sha256_of
from vt_course.grading import sandbox
from vt_course.grading.pages import page
from vt_course.grading.sandbox import Limits
from vt_course.grading.submission import Assignment, assignment, read_submission
from vt_course.publish.source import select_sources

COLUMNS = ("submission", "notebook", "release", "state", "passed", "exercises")
OF_SYSTEMS = {".DS_Store", "__MACOSX", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini", "__pycache__"}
GRADED, UNREADABLE, OTHER = "graded", "not readable", "another notebook"
SAME_TEXT = 200  # characters: shorter answers may well be equal by chance


def grade(
    folder: Path,
    *,
    notebook: str | None = None,
    out: Path | None = None,
    limits: Limits = Limits(),
    trust: bool = False,
    root: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[dict]:
    """Grade the submissions in `folder` and return a row for each: what `COLUMNS` names, notes, verdicts, page.

    A submission is a file of the folder, or a notebook in a folder of it. notebook: "04" or its stem; a submission that
    is another one is not graded. None: each is graded as the notebook that it is.
    out: the table (`FOLDER.csv`). Beside it, the folder `FOLDER-pages` has a page for each submission, and the record
    by which a run that was interrupted goes on. trust: run submissions with the rights of the user where bubblewrap is
    missing. tell: gets what the user should know.
    Raises CourseError for a folder without submissions, for a table that is not ours, and where `trust` is needed.
    """
    folder = Path(folder)
    need(folder.is_dir(), f"{folder} is no folder; name the folder that holds the submissions, unpacked")
    inside, why_not = sandbox.bubblewrap()
    if not inside:
        tell(f"submissions run with your rights, and can read and change your files: {why_not}")
        need(trust, "grade runs code of others; install bubblewrap, or allow it with --trust")
    for sentence in sandbox.lacking():
        tell(sentence)
    root = root or repo_root()
    assignments = [assignment(source) for source in select_sources(root, None)]
    chosen = {source.stem for source in select_sources(root, [notebook] if notebook else None)}
    asked = [one for one in assignments if one.notebook in chosen]
    files = submissions(folder)
    need(files, f"{folder} holds no submissions; name the folder that holds them, unpacked")
    out = Path(out) if out else folder.resolve().with_name(f"{folder.resolve().name}.csv")
    refuse_other_table(out)
    pages = out.with_name(f"{out.stem}-pages")
    pages.mkdir(parents=True, exist_ok=True)
    with alone(pages / ".lock", wait=False):
        record = Record(pages / "record.jsonl")
        rows = []
        try:
            for place, (name, path) in enumerate(files, start=1):
                key = fingerprint(name, path, [one.edition for one in asked], limits)
                row = record.rows.get(key)
                if row is None:
                    tell(f"{place} of {len(files)}: {name}")
                    row = in_process(name, path, assignments, asked, record.seed, limits, inside)
                    record.add(key, row)
                rows.append(row)
        finally:  # also after an interruption: what is there is kept
            write_table(out, pages, rows)
    return rows


def submissions(folder: Path) -> list[tuple[str, Path]]:
    """(name, file) of each submission. A folder without a notebook stands for itself."""
    found = []
    for entry in sorted(folder.iterdir(), key=lambda path: path.name):
        if entry.name in OF_SYSTEMS:
            continue
        if entry.is_dir() and not entry.is_symlink():
            inner = [
                path
                for path in sorted(entry.rglob("*.ipynb"))
                if not OF_SYSTEMS & set(path.relative_to(folder).parts) and not path.is_dir()
            ]
            found += [(path.relative_to(folder).as_posix(), path) for path in inner or [entry]]
        else:
            found.append((entry.name, entry))
    return [(printable(os.fsencode(name).decode("utf-8", "replace")), path) for name, path in found]


def fingerprint(name: str, path: Path, editions: list[str], limits: Limits) -> str:
    """By which a row is known again: the submission with all its bytes, and what it is graded by."""
    seen = hashlib.sha256(repr((name, os.fsencode(path), editions, limits, __version__)).encode())
    with suppress(OSError):
        if path.is_file() and not path.is_symlink():
            seen.update(sha256_of(path).encode())
    return seen.hexdigest()


def refuse_other_table(out: Path) -> None:
    if out.exists():
        remedy = "name another file with --out."
        need(
            out.is_file() and tuple(csv_header(out, remedy))[: len(COLUMNS)] == COLUMNS,
            f"{out} exists and is no table of `vt-course grade`; {remedy}",
        )


# ---------------------------------------------------------------- one submission


def blank(name: str) -> dict:
    counts = dict(passed=0, exercises=0)
    return dict(submission=name, notebook="", release="", state=UNREADABLE, **counts, notes=[], verdicts={}, text="")


def in_process(name: str, path: Path, *how) -> dict:
    """The row of a submission, made in a process of its own, which may die of it."""
    context = multiprocessing.get_context("spawn" if sys.platform in ("win32", "darwin") else "forkserver")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["vt_course.grading.judge"])  # imports PyTorch once for all
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(theirs, name, path, *how), daemon=True)
    process.start()
    theirs.close()
    try:
        if ours.poll(patience(*how)):
            row = ours.recv()
        else:
            row = blank(name) | {"notes": ["it was given up: reading and checking it took too long"]}
    except EOFError:
        process.join()
        code = process.exitcode
        died = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        row = blank(name) | {"notes": [f"it could not be read: the process that read it died ({died})"]}
    finally:
        process.terminate()  # so that it ends the process of the submission
        process.join(10)
        process.kill()
        process.join()
        ours.close()
    if isinstance(row, CourseError):
        raise row
    return row


def patience(known, asked, seed, limits: Limits, inside) -> float:
    """The seconds that a submission may take in all, on a machine that is busy."""
    return 2 * sandbox.START + limits.seconds * sandbox.PER_CPU_SECOND * max(len(one.tasks) for one in known)


def work(pipe, *how) -> None:
    """In the process of a submission: send its row. An error of the grader itself is sent, too, and ends the batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is for the grader, which then ends this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        pipe.send(row_of(*how))
    except CourseError as error:
        pipe.send(error)


def row_of(
    name: str,
    path: Path,
    known: list[Assignment],
    asked: list[Assignment],
    seed: int,
    limits: Limits,
    inside: str | None,
) -> dict:
    from vt_course.grading.judge import judge
    from vt_course.lab.exercises import EXERCISES

    row = blank(name)
    try:
        need(not path.is_dir(), "it is a folder without a notebook")
        handed_in = read_submission(path, known)
    except CourseError as error:
        return row | {"notes": [str(error).rstrip(".")]}
    except (RecursionError, MemoryError) as error:
        return row | {"notes": [f"it could not be read ({type(error).__name__}): it is nested too deeply"]}
    mine = handed_in.assignment
    row |= dict(notebook=mine.notebook, release=printable(handed_in.release[:20]), notes=list(handed_in.notes))
    if mine.notebook not in {one.notebook for one in asked}:
        wanted = " or ".join(one.notebook for one in asked)
        return row | {"state": OTHER, "notes": [f"it is notebook {mine.notebook}; asked for is {wanted}"]}
    answers = {task.number: (task.name, handed_in.answers[task.number]) for task in mine.tasks}
    verdicts = judge(answers, seed, limits, inside)
    return row | dict(
        state=GRADED,
        passed=sum(verdict.state == "passed" for verdict in verdicts.values()),
        exercises=sum(not EXERCISES[number].by_hand for number in verdicts),  # the same for all who hand it in
        verdicts={
            number: dict(state=v.state, title=EXERCISES[number].title, text=v.text) for number, v in verdicts.items()
        },
        text="\0".join(answer.written.strip() for answer in handed_in.answers.values()),
    )


# ---------------------------------------------------------------- the record and the table


class Record:
    """The rows that are done, one a line of JSON. The first line holds the seed of this batch's cases."""

    def __init__(self, path: Path):
        self.path, self.rows, self.seed = path, {}, None
        remedy = "remove its folder to grade everything anew."
        lines = list(read_lines(path, remedy)) if path.exists() else []
        for line in lines:
            if line.endswith("\n"):  # the last one may have been cut by an interruption
                value = parse_json(line, path, remedy, dict)
                if "seed" in value:
                    self.seed = value["seed"]
                else:
                    self.rows[value["key"]] = value["row"]
        if self.seed is None:
            self.seed = secrets.randbelow(1 << 20) + 1000  # so nobody can know the cases beforehand
            atomic_write(path, (json.dumps({"seed": self.seed}) + "\n").encode())
        elif lines and not lines[-1].endswith("\n"):
            atomic_write(path, "".join(lines[:-1]).encode())

    def add(self, key: str, row: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "row": row}) + "\n")
            file.flush()
        self.rows[key] = row


def write_table(out: Path, pages: Path, rows: list[dict]) -> None:
    """Write the table and the pages. Rows get their `page`, and a note if another one has the same answers."""
    twins = defaultdict(list)
    for row in rows:
        if len(row["text"].replace("\0", "")) >= SAME_TEXT:
            twins[row["text"]].append(row["submission"])
    numbers = list(dict.fromkeys(number for row in rows for number in row["verdicts"]))
    numbers.sort(key=lambda number: [int(part) for part in number.split(".")])
    lines = []
    for place, row in enumerate(rows, start=1):
        notes = list(row["notes"])
        if others := [name for name in twins.get(row["text"], []) if name != row["submission"]]:
            notes.append(f"its answers are the same, letter by letter, as those of {', '.join(others[:5])}")
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", row["submission"]).strip("-")[:60] or "submission"
        row["page"] = f"{place:03}-{slug}.html"
        atomic_write(pages / row["page"], page(row).encode())
        lines.append(
            [row[column] for column in COLUMNS]
            + [row["verdicts"].get(number, {}).get("state", "") for number in numbers]
            + ["; ".join(notes), f"{pages.name}/{row['page']}"]
        )
        row["notes"] = notes
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *numbers, "notes", "page"])
    writer.writerows([[harmless(value) for value in line] for line in lines])
    atomic_write(out, text.getvalue().encode())


def harmless(value):
    """A text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
