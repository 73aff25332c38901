"""Rules that a notebook must satisfy before it is published, and that execution cannot check.

Three examples: a notebook that was never run passes nbval, because nothing is compared; a forgotten `!false` passes
every test; a trailing `;` prints differently in JupyterLab and in nbval. So these rules are
checked on the file itself.
"""

import ast
import io
import re
import statistics
import tokenize
from pathlib import Path

import nbformat

LONGEST_CELL, MEDIAN_CELL = 30, 8  # lines that are not blank
WIDTH = 88  # characters
SIZE_MB = 1.5
# The cells of an exercise, in this order.
PARTS = {"exercise": "code", "check": "code", "hints": "markdown", "solution": "code"}
TAG = re.compile(
    r"parameters|definition|fast|oracle|figure"
    r"|(exercise|check|hints|solution|claim):[\w.-]+"
)
MACHINE_PATH = re.compile(r"(?<![\w./:-])/(?:home|Users|root|tmp|work|private|var/folders)/\w")
SUCCESS = "✓ "  # the line that a passed check prints begins so


def problems(path: Path) -> list[str]:
    """What is wrong with a built notebook: one sentence for each problem, with notebook, cell number and rule."""
    path = Path(path)
    try:
        nb = nbformat.v4.reads(path.read_text(encoding="utf-8"))  # nbformat.read would repair ids
    except ValueError as error:
        return [f"{path.stem}: is not a notebook file ({error})."]
    found = source_problems(nb, path.stem) + run_problems(nb, path.stem)
    megabytes = path.stat().st_size / 1e6
    if megabytes > SIZE_MB:
        found.append(
            f"{path.stem}: takes {megabytes:.1f} MB; the cap is {SIZE_MB} MB, so draw fewer or smaller figures."
        )
    return found


def source_problems(nb, name: str) -> list[str]:
    """Check the rules on cells, tags and metadata, which hold before execution."""
    found = []
    for index, cell in enumerate(nb.cells):
        found += [f"{name}, {label(nb, index)}: {text}" for text in _cell_problems(cell)]
    lengths = [_lines(cell.source) for cell in nb.cells if cell.cell_type == "code"]
    if lengths and statistics.median(lengths) > MEDIAN_CELL:
        found.append(f"{name}: half of the code cells have more than {MEDIAN_CELL} lines; split some.")
    return found + [
        f"{name}: {text}" for rule in (_parameter_problems, _exercise_problems, _file_problems) for text in rule(nb)
    ]


def run_problems(nb, name: str) -> list[str]:
    """Check the rules on outputs: every cell ran once, from top to bottom, without errors or warnings."""
    found = []
    code = [(index, cell) for index, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    for count, (index, cell) in enumerate(code, start=1):
        where = f"{name}, {label(nb, index)}"
        if cell.execution_count != count:
            found.append(f"{where}: execution count is {cell.execution_count}, not {count}; run all cells in order.")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{where}: holds an error, {output.ename}: {output.evalue}.")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{where}: wrote to stderr: {output.text.strip()[:200]!r}.")
            if MACHINE_PATH.search(_text(output)):
                found.append(f"{where}: the output names a folder of the machine it ran on.")
    if not any(cell.outputs for _, cell in code):
        found.append(f"{name}: no cell has any output; it was never run, or stripped.")
    for exercise in sorted(exercises(nb).keys() - passed(nb)):
        found.append(
            f"{name}: exercise {exercise} printed no line that begins with"
            f" {SUCCESS!r}; end its solution cell with the check."
        )
    return found


def exercises(nb) -> dict[str, dict[str, list[int]]]:
    """Exercise id -> part ("exercise", "check", ...) -> positions of its cells."""
    found = {}
    for index, cell in enumerate(nb.cells):
        for tag in cell.metadata.get("tags", []):
            part, _, exercise = tag.partition(":")
            if part in PARTS and exercise:
                found.setdefault(exercise, {}).setdefault(part, []).append(index)
    return found


def passed(nb) -> set[str]:
    """Ids of the exercises whose check or solution cell printed a line of success."""
    return {
        exercise
        for exercise, parts in exercises(nb).items()
        if any(
            line.startswith(SUCCESS)
            for index in parts.get("check", []) + parts.get("solution", [])
            for output in nb.cells[index].get("outputs", [])
            if output.get("name") == "stdout"
            for line in output.text.splitlines()
        )
    }


def label(nb, index: int) -> str:
    """The name of a cell in messages: its place and, for code, the number that JupyterLab shows."""
    cell = nb.cells[index]
    if cell.cell_type != "code":
        return f"cell {index + 1}"
    return f"cell {index + 1} (In [{sum(c.cell_type == 'code' for c in nb.cells[: index + 1])}])"


def _cell_problems(cell) -> list[str]:
    tags = cell.metadata.get("tags", [])
    found = [f"the tag {tag!r} is not one of the course's." for tag in tags if not TAG.fullmatch(tag)]
    extra = sorted(cell.metadata.keys() - {"tags"})
    if extra:
        found.append(f"carries metadata {', '.join(extra)}; only tags are kept.")
    if cell.cell_type == "code":
        found += _code_problems(cell.source)
    return found


def _code_problems(source: str) -> list[str]:
    if not source.strip():
        return ["is an empty code cell."]
    found = []
    if _lines(source) > LONGEST_CELL:
        found.append(f"has {_lines(source)} lines; at most {LONGEST_CELL}.")
    wide = max(source.splitlines(), key=len)
    if len(wide) > WIDTH:
        found.append(f"has a line of {len(wide)} characters (at most {WIDTH}): {wide.strip()[:40]!r}.")
    if re.search(r"^\s*#+\s*(NBVAL_|PYTEST_VALIDATE_)", source, re.MULTILINE):
        found.append("a comment switches nbval off; make the output comparable instead.")
    try:
        tree = ast.parse(source)
    except SyntaxError as error:  # IPython's own syntax (!, %, ?) is not Python
        line = (error.text or "").strip()
        return found + [f"is not plain Python (a magic or `!` command?): {line!r}."]
    if any(isinstance(node, ast.Name) and node.id == "get_ipython" for node in ast.walk(tree)):
        found.append("calls get_ipython(); cells are plain Python.")
    if _trailing_semicolon(source):
        found.append("a line ends with `;`; write `_ = ...` to hide a value.")
    return found


def _trailing_semicolon(source: str) -> bool:
    last = None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER) and last == ";":
            return True
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            last = token.string
    return False


def _parameter_problems(nb) -> list[str]:
    cells = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) == 1 and re.search(r'^PROFILE = "smoke"', cells[0].source, re.MULTILINE):
        return []
    return ['needs exactly one cell tagged `parameters`, with PROFILE = "smoke".']


def _exercise_problems(nb) -> list[str]:
    found = []
    for exercise, parts in exercises(nb).items():
        missing = [part for part in PARTS if part not in parts]
        if missing:
            tags = ", ".join(f"{part}:{exercise}" for part in missing)
            found.append(f"exercise {exercise} lacks a cell tagged {tags}.")
        places = [place for part in PARTS for place in parts.get(part, [])]
        if places != sorted(set(places)):
            found.append(f"exercise {exercise}: its cells must come in the order {', '.join(PARTS)}, one tag each.")
        for part in ("exercise", "check"):
            if len(parts.get(part, [])) > 1:
                found.append(
                    f"exercise {exercise} has {len(parts[part])} cells tagged {part}:{exercise}; one is enough."
                )
        for part, kind in PARTS.items():
            if any(nb.cells[place].cell_type != kind for place in parts.get(part, [])):
                found.append(f"exercise {exercise}: {part}:{exercise} must be a {kind} cell.")
        for part, text in (("exercise", "NotImplementedError"), ("hints", "<details>")):
            if any(text not in nb.cells[place].source for place in parts.get(part, [])):
                found.append(f"exercise {exercise}: cell {part}:{exercise} must hold {text}.")
        if not missing and not found:
            found += _stub_problems(exercise, {part: nb.cells[places[0]].source for part, places in parts.items()})
    return found


def _stub_problems(exercise: str, cells: dict[str, str]) -> list[str]:
    """Check that the stub is the solution without its body, and that both are passed to the check."""
    try:
        stub, check, solution = (ast.parse(cells[part]).body for part in ("exercise", "check", "solution"))
    except SyntaxError:
        return []  # `_code_problems` reports it
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


def _file_problems(nb) -> list[str]:
    found = []
    ids = [cell.get("id") for cell in nb.cells]
    if None in ids or len(set(ids)) != len(ids):
        found.append("cell ids are missing or not unique; build it from its source.")
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernelspec must be python3.")
    return found


def _lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def _text(output) -> str:
    texts = [output.get("text", "")] + [
        output.get("data", {}).get(f"text/{kind}", "") for kind in ("plain", "html", "markdown")
    ]
    return "\n".join(texts)
