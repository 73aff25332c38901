"""Run editions for the hosts, of an installed wheel, from top to bottom: the named ones, `all`, or two of this day."""

import sys
import time
from datetime import date
from pathlib import Path

import nbformat

from vt_course import carried, repo_root
from vt_course.publish.build import execute

assert carried(), "this is not the course of a wheel"
paths = sorted((repo_root() / "notebooks" / "hosted").glob("*.ipynb"))
if not sys.argv[1:]:  # all of them within a week
    day, pairs = date.today().toordinal(), (len(paths) + 1) // 2
    paths = paths[day % pairs :: pairs]
elif sys.argv[1:] != ["all"]:
    paths = [path for path in paths if path.stem[:2] in sys.argv[1:]]
assert paths, sys.argv
for path in paths:
    nb, start = nbformat.read(path, as_version=4), time.monotonic()
    execute(nb, Path.cwd(), path.stem)
    printed = ["".join(o.get("text", "") for o in cell.outputs) for cell in nb.cells if cell.cell_type == "code"]
    checks = sum(text.startswith("○ exercise") for text in printed)
    assert printed[0].startswith("✓ vt_course"), printed[0]
    seconds = time.monotonic() - start
    print(f"{path.stem}: {len(printed)} cells, {checks} checks not attempted, {seconds:.0f} s", flush=True)
