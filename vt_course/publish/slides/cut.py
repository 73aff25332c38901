"""What is too long for a slide, cut where a reader would cut it."""

import ast
import io

import numpy as np
from PIL import Image

MOST = 12  # lines of code on a slide; empty ones do not count


def cut_code(code: str, most: int = MOST) -> list[str]:
    """The parts of a cell, each of at most `most` lines, in order: few parts, cut between statements.

    A cut between whole functions is better than one inside a function; one inside a statement is the last resort. The
    first statement of a function stays with its `def`.
    """
    lines = [line.rstrip() for line in code.strip("\n").split("\n")]
    cost = cut_costs(lines)
    best = {len(lines): ((0, 0, 0), [])}  # line -> (number of parts, cost of the cuts, longest part), their beginnings
    for start in reversed(range(len(lines))):
        options = []
        for end in range(start + 1, len(lines) + 1):
            size = sum(map(bool, lines[start:end]))
            if size > most:
                break
            (parts, paid, longest), starts = best[end]
            here = cost[end] if end < len(lines) else 0
            options.append(((parts + 1, paid + here, max(longest, size)), [start, *starts]))
        best[start] = min(options)
    starts = [*best[0][1], len(lines)]
    return ["\n".join(lines[a:b]).strip("\n") for a, b in zip(starts, starts[1:])]


def cut_costs(lines: list[str]) -> list[int]:
    """What it costs to cut before each line: the depth of the statement that begins there; more inside a statement."""
    cost = [20] * len(lines)

    def visit(body, depth: int, first_stays: bool):
        for i, statement in enumerate(body):
            line = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))]) - 1
            while line and lines[line - 1].lstrip().startswith("#"):  # a comment belongs to what follows
                line -= 1
            cost[line] = 20 if first_stays and i == 0 else depth
            for field in ("body", "orelse", "finalbody"):
                visit(getattr(statement, field, None) or [], depth + 2, field == "body")

    visit(ast.parse("\n".join(lines)).body, 0, False)
    return cost


def cut_picture(png: bytes, parts: int) -> list[bytes]:
    """A tall picture in so many parts, one below the other, if empty rows let it be cut into equal ones; else []."""
    with Image.open(io.BytesIO(png)) as image:
        if getattr(image, "n_frames", 1) > 1:
            return []
        image = image.convert("RGB")
    rows = np.asarray(image)
    empty = np.flatnonzero((rows == rows[:, :1]).all(axis=(1, 2)))  # of one colour from end to end
    cuts = [0]
    for wanted in (len(rows) * part / parts for part in range(1, parts)):
        near = empty[abs(empty - wanted) < len(rows) / parts / 3]
        if not len(near):
            return []
        # The middle of the widest empty band, because the narrow ones lie between a panel and its own title.
        band = max(np.split(near, np.flatnonzero(np.diff(near) > 1) + 1), key=len)
        cuts.append(int(band[len(band) // 2]))
    cuts.append(len(rows))
    return [_png(image.crop((0, top, image.width, end))) for top, end in zip(cuts, cuts[1:])]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return file.getvalue()
