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

from vt_course.publish import figures, links, stubs, tags
from vt_course.publish.source import METADATA
from vt_course.publish.tags import exercises

LONGEST_CELL, MEDIAN_CELL = 30, 8  # lines that are not blank
WIDTH = 88  # characters
GOOD_WIDTH = 72  # what fits on a projector and on a page; notebooks/limits.json says how many lines are wider
SIZE_MB = 1.5
FIGURE_KB = 1000  # of a notebook that notebooks/limits.json does not name
MACHINE_PATH = re.compile(r"(?<![\w./:-])/(?:home|Users|root|tmp|work|private|var/folders)/\w")
SUCCESS = "✓ "  # the line that a passed check prints begins so


def problems(path: Path) -> list[str]:
    """What is wrong with a built notebook: one sentence for each problem, with notebook, cell number and rule."""
    path = Path(path)
    try:
        nb = nbformat.v4.reads(path.read_text(encoding="utf-8"))  # nbformat.read would repair ids
    except ValueError as error:
        return [f"{path.stem}: is not a notebook file ({error})."]
    found = all_problems(nb, path)
    megabytes = path.stat().st_size / 1e6
    if megabytes > SIZE_MB:
        found.append(
            f"{path.stem}: takes {megabytes:.1f} MB; the cap is {SIZE_MB} MB, so draw fewer or smaller figures."
        )
    return found


def all_problems(nb, path: Path) -> list[str]:
    """What is wrong with a built notebook, wherever it was read from. path: where it lies, which its links need."""
    return source_problems(nb, path.stem) + run_problems(nb, path.stem) + links.problems(path, nb)


def source_problems(nb, name: str) -> list[str]:
    """Check the rules on cells, tags and metadata, which hold before execution."""
    found = []
    for index, cell in enumerate(nb.cells):
        found += [f"{name}, {label(nb, index)}: {text}" for text in _cell_problems(cell)]
    lengths = [_lines(cell.source) for cell in nb.cells if cell.cell_type == "code"]
    if lengths and statistics.median(lengths) > MEDIAN_CELL:
        found.append(f"{name}: half of the code cells have more than {MEDIAN_CELL} lines; split some.")
    rules = (_parameter_problems, tags.notebook_problems, stubs.problems, _file_problems)
    found += [f"{name}: {text}" for rule in rules for text in rule(nb)]
    return found + figures.same_text((f"{name}, {label(nb, index)}", cell) for index, cell in enumerate(nb.cells))


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
        found += [f"{where}: {text}" for text in figures.run_problems(cell)]
    if not any(cell.outputs for _, cell in code):
        found.append(f"{name}: no cell has any output; it was never run, or stripped.")
    for exercise in sorted(exercises(nb).keys() - passed(nb)):
        found.append(
            f"{name}: exercise {exercise} printed no line that begins with"
            f" {SUCCESS!r}; end its solution cell with the check."
        )
    return found


def limit_problems(nb, name: str, limits: dict[str, dict[str, int]]) -> list[str]:
    """Check a notebook against its row of notebooks/limits.json: {"03_swin": {"figure_kb": ..., "wide_lines": ...}}.

    figure_kb: the most kilobytes that its figures may take. wide_lines: the number of code lines with more than
    `GOOD_WIDTH` characters. It may only shrink, so a smaller number than the stated one is a problem, too.
    """
    row = limits.get(name, {"figure_kb": FIGURE_KB, "wide_lines": 0})
    found, kilobytes, wide = [], figures.figure_bytes(nb) / 1000, len(wide_lines(nb))
    if kilobytes > row["figure_kb"]:
        found.append(
            f"{name}: its figures take {kilobytes:.0f} kB; at most {row['figure_kb']}, so draw fewer or smaller ones."
        )
    if wide > row["wide_lines"]:
        found.append(
            f"{name}: {wide} code lines have more than {GOOD_WIDTH} characters; at most {row['wide_lines']} may."
        )
    if wide < row["wide_lines"]:
        found.append(
            f"{name}: only {wide} code lines have more than {GOOD_WIDTH} characters; write this number into"
            " notebooks/limits.json, where it may only shrink."
        )
    return found


def wide_lines(nb) -> list[str]:
    lines = [line for cell in nb.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    return [line for line in lines if len(line) > GOOD_WIDTH]


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
    found = tags.cell_problems(cell) + figures.source_problems(cell)
    extra = sorted(cell.metadata.keys() - {"tags", "mystnb"})
    if extra or cell.metadata.get("mystnb", {}).keys() - {"image"}:
        found.append(f"carries metadata {', '.join(extra or ['mystnb'])}; only tags and alt texts are kept.")
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


def _file_problems(nb) -> list[str]:
    found = []
    ids = [cell.get("id") for cell in nb.cells]
    if None in ids or len(set(ids)) != len(ids):
        found.append("cell ids are missing or not unique; build it from its source.")
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernelspec must be python3.")
    got = {key: value for key, value in nb.metadata.items() if key != "vt_course"}  # the record of the build
    for text in _machine(got, METADATA):
        found.append(f"its metadata are of one machine: {text}; build it from its source.")
    return found


def _machine(got, wanted, where: str = "") -> list[str]:
    """How metadata differ from those of the course, such as "language_info.version is '3.13.5'"."""
    if not isinstance(got, dict) or not isinstance(wanted, dict):
        return [f"{where} is {got!r}"] if got != wanted else []
    keys = [key for key in {**wanted, **got} if got.get(key) != wanted.get(key)]
    return [text for key in keys for text in _machine(got.get(key), wanted.get(key), f"{where}.{key}".strip("."))]


def _lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def _text(output) -> str:
    texts = [output.get("text", "")] + [
        output.get("data", {}).get(f"text/{kind}", "") for kind in ("plain", "html", "markdown")
    ]
    return "\n".join(texts)
