"""Rules for exercises: their four cells, a stub that is the solution without its body, and no trace of the solution.

A trace is what a student edition must not show. Two rules look for it. The body of a stub is its docstring and one
`raise`, so nothing can stand behind the `raise`. And no text that students get (stub, hints, other markdown, comments)
may repeat most of a solution. Repeated means: runs of 8 tokens that are the same when each name of a variable counts
as the same, so a solution with other names is found, too. A solution that computes the same in another way is not
found.
"""

import ast
import io
import re
import tokenize
from functools import lru_cache

from vt_course.publish.tags import PARTS, exercises, parts, tags

RUN = 8  # tokens
# The largest share of a solution that may be repeated. Real hints, which show a line or two, repeat up to 0.45; real
# text repeats up to 0.61, where it states a formula that the exercise turns into code.
HINTS, TEXT = 0.6, 0.7
TOKEN = re.compile(r"\w+|[^\w\s]")


def problems(nb) -> list[str]:
    """What is wrong with the exercises of a notebook: one sentence for each problem."""
    found = _untagged(nb)
    for exercise, cells in exercises(nb).items():
        wrong = _cells_of(nb, exercise, cells)
        if not wrong and all(part in cells for part in PARTS):
            sources = {part: nb.cells[places[0]].source for part, places in cells.items()}
            wrong = pair_problems(exercise, sources) or trace_problems(nb, exercise, sources)
        found += wrong
    return found


def _untagged(nb) -> list[str]:
    """Cells that look like a part of an exercise and have no tag that says so."""
    found, known = [], exercises(nb)
    for index, cell in enumerate(nb.cells):
        for part, exercise in _looks_like(cell):
            if part == "heading":
                if exercise not in known:
                    found.append(f"exercise {exercise} has a heading, but no cell is tagged exercise:{exercise}.")
            elif part == "answer":
                found.append(f"cell {index + 1} holds answers; put them into a cell of their own, tagged answer.")
            elif part not in parts(cell) or exercise not in (None, parts(cell)[part]):
                found.append(
                    f"cell {index + 1} looks like {part} of an exercise; tag it {part}:{exercise or 'NUMBER'}."
                )
    return found


def _looks_like(cell) -> list[tuple[str, str | None]]:
    """(part, number of the exercise or None if the cell does not say it), by what stands in the cell."""
    if cell.cell_type == "markdown":
        found = [("heading", number) for number in re.findall(r"^#+ Exercise ([\d.]+\d)", cell.source, re.MULTILINE)]
        if re.search(r"<summary>\s*Hint", cell.source):
            found.append(("hints", None))
        if re.search(r"<summary>\s*Answer", cell.source) and "answer" not in tags(cell):
            found.append(("answer", None))
        return found
    found = [
        ("exercise", number)
        for number in re.findall(r"raise NotImplementedError\(.exercise ([\d.]+\d).\)", cell.source)
    ]
    for name, number, more in re.findall(
        r"^(\w+) = check\(\s*.([\d.]+\d).,\s*\w+\s*(,\s*solution=True)?", cell.source, re.MULTILINE
    ):
        if name != "_":
            found.append(("solution" if more else "check", number))
    return found


def _cells_of(nb, exercise: str, cells: dict[str, list[int]]) -> list[str]:
    found = []
    missing = [part for part in PARTS if part not in cells]
    if missing:
        names = ", ".join(f"{part}:{exercise}" for part in missing)
        found.append(f"exercise {exercise} lacks a cell tagged {names}.")
    places = [place for part in PARTS for place in cells.get(part, [])]
    if places != sorted(set(places)):
        found.append(f"exercise {exercise}: its cells must come in the order {', '.join(PARTS)}, one tag each.")
    for part in ("exercise", "check"):
        if len(cells.get(part, [])) > 1:
            found.append(f"exercise {exercise} has {len(cells[part])} cells tagged {part}:{exercise}; one is enough.")
    for part, kind in PARTS.items():
        if any(nb.cells[place].cell_type != kind for place in cells.get(part, [])):
            found.append(f"exercise {exercise}: {part}:{exercise} must be a {kind} cell.")
    for part, text in (("exercise", "NotImplementedError"), ("hints", "<details>")):
        if any(text not in nb.cells[place].source for place in cells.get(part, [])):
            found.append(f"exercise {exercise}: cell {part}:{exercise} must hold {text}.")
    return found


# ---------------------------------------------------------------- the stub is the solution without its body


def pair_problems(exercise: str, cells: dict[str, str]) -> list[str]:
    """Check that the stub is the solution without its body, and that both are passed to the check."""
    try:
        stub, check, solution = (ast.parse(cells[part]).body for part in ("exercise", "check", "solution"))
    except SyntaxError:
        return []  # `hygiene` reports it
    name = stub[-1].name if isinstance(stub[-1], (ast.FunctionDef, ast.ClassDef)) else "f"
    found = []
    for part, last, more in (("check", check[-1], ""), ("solution", solution[-1], ", solution=True")):
        call = f'{name} = check("{exercise}", {name}{more})'
        if ast.unparse(last) != ast.unparse(ast.parse(call)):
            found.append(f"exercise {exercise}: cell {part}:{exercise} must end with `{call}`.")
    if skeleton(stub) != skeleton(solution[:-1]):
        found.append(
            f"exercise {exercise}: the stub must be the solution with the body removed:"
            " same imports, signature and docstring."
        )
    given = {ast.unparse(f) for f in functions(solution)}
    for f in functions(stub):
        if not _only_raises(f) and ast.unparse(f) not in given:
            found.append(
                f"exercise {exercise}: after its docstring, {f.name} of the stub must hold one statement,"
                f' `raise NotImplementedError("exercise {exercise}")`.'
            )
    return found


def functions(statements: list[ast.stmt]) -> list[ast.FunctionDef]:
    """The functions of a cell and of its classes, not those inside functions."""
    found = []
    for node in statements:
        if isinstance(node, ast.FunctionDef):
            found.append(node)
        elif isinstance(node, ast.ClassDef):
            found += functions(node.body)
    return found


def skeleton(statements: list[ast.stmt]) -> str:
    """The source of a cell in which each function has only its signature and docstring left."""
    lines = []
    for node in statements:
        if isinstance(node, ast.ClassDef):
            lines += [
                ast.unparse(ast.ClassDef(node.name, node.bases, node.keywords, [ast.Pass()], node.decorator_list)),
                ast.get_docstring(node) or "",
                skeleton([n for n in node.body if not isinstance(n, ast.Expr)]),
            ]
        elif isinstance(node, ast.FunctionDef):
            lines += [
                *map(ast.unparse, node.decorator_list),
                node.name,
                ast.unparse(node.args),
                node.returns and ast.unparse(node.returns) or "",
                ast.get_docstring(node) or "",
            ]
        else:
            lines.append(ast.unparse(node))
    return "\n".join(lines)


def _body(f: ast.FunctionDef) -> list[ast.stmt]:
    return f.body[1:] if ast.get_docstring(f) is not None else f.body


def _only_raises(f: ast.FunctionDef) -> bool:
    body = _body(f)
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.unparse(body[0])


# ---------------------------------------------------------------- no trace of a solution


def trace_problems(nb, exercise: str, cells: dict[str, str]) -> list[str]:
    """Places of the student edition that repeat most of the solution of an exercise."""
    try:
        stub, solution = (ast.parse(cells[part]).body for part in ("exercise", "solution"))
    except SyntaxError:
        return []
    given = {ast.unparse(f) for f in functions(stub)}
    bodies = [node for f in functions(solution) if ast.unparse(f) not in given for node in _body(f)]
    # As written, and as Python would write it, which has other brackets and no comments.
    written = "\n".join(ast.get_source_segment(cells["solution"], node) for node in bodies)
    plain = "\n".join(map(ast.unparse, bodies))
    found = []
    for index, cell in enumerate(nb.cells):
        part = next((part for part, number in parts(cell).items() if number == exercise), None)
        if part == "solution" or "answer" in tags(cell):
            continue
        text = cell.source if cell.cell_type == "markdown" or part else comments(cell.source)
        share = max(repeated(written, text), repeated(plain, text))
        if share > (HINTS if part else TEXT):
            where = f"its cell {part}:{exercise}" if part else f"cell {index + 1}"
            found.append(f"exercise {exercise}: {where} repeats {share:.0%} of the solution.")
    return found


def repeated(solution: str, text: str) -> float:
    """The share of the solution's tokens that lie in a run of `RUN` tokens which `text` has, too."""
    wanted, there = _runs(solution), set(_runs(text))
    covered = {i + k for i, run in enumerate(wanted) if run in there for k in range(RUN)}
    return len(covered) / (len(wanted) + RUN - 1)


@lru_cache(1000)  # the texts of a notebook are compared with each of its solutions
def _runs(text: str) -> list[tuple[str, ...]]:
    words = _tokens(text)
    return [tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]


def _tokens(text: str) -> list[str]:
    """The tokens of code, or of text with code in it; every name that is neither called nor an attribute is `_`.

    The signs of comments and of code in markdown do not count, because they stand between lines of a solution.
    """
    found = TOKEN.findall(re.sub("[#`]", " ", text))
    return [
        "_" if (word[0].isalpha() or word[0] == "_") and before != "." and after != "(" else word
        for before, word, after in zip(["", *found], found, [*found[1:], ""])
    ]


@lru_cache(1000)
def comments(source: str) -> str:
    """The comments of a code cell, without their signs."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return ""
    return "\n".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)
