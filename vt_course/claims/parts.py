"""A report in parts: each part is written before the next one is made, so a run can be cut off at any moment."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from vt_course import CourseError, need
from vt_course.files import atomic_write, read_json

ANEW = "name another file with --out, or delete it"


def in_parts(
    out: Path | None,
    head: dict,
    same: tuple[str, ...],
    describe: str,
    todo: Iterable[tuple[str, Callable[[], object]]],
    tell: Callable[[str], None],
) -> dict:
    """Make the parts `todo`, pairs (name, work), that the file `out` lacks, and write it after each. Returns it.

    `head`: what the report says of itself, with the commit, which each part records. A part whose result is there is
    not made again; one that failed is. `tell` gets a line for each part. `out` may be None: nothing is written.
    Raises `CourseError` for a file that does not agree with `head` in the entries `same`: it is no report `describe`.
    """
    report = {**head, "parts": {}}
    if out is not None and out.is_file():
        report = read_json(out, ANEW, dict)
        agrees = all(report.get(key) == head[key] for key in same) and isinstance(report.get("parts"), dict)
        need(agrees, f"{out} is no report {describe}; {ANEW}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    todo = list(todo)
    for number, (name, work) in enumerate(todo, 1):
        if "result" in report["parts"].get(name, {}):
            continue
        started = time.monotonic()
        try:
            found = {"result": work()}
        except CourseError as error:
            found = {"error": str(error)}
        seconds = round(time.monotonic() - started, 1)
        made = report["parts"] | {name: found | {"seconds": seconds, "commit": head["commit"]}}
        # In the order of `todo`, whenever a part was made; the file may have others, of a run with other choices.
        report["parts"] = {each: made[each] for each, _ in todo if each in made} | made
        if out is not None:
            atomic_write(out, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
        said = "done" if "result" in found else f"FAILED: {found['error']}"
        tell(f"{number}/{len(todo)}  {name}: {said} in {seconds:.0f} s")
    return report
