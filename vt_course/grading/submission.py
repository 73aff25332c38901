"""The functions of the exercises in a notebook that was handed in. Nothing of it is executed here.

An exercise is found by the tag of its cell. Where the tags were lost, or the course has renumbered its exercises, it is
found by the name of its function. With the function come the names that it uses: from its own cell, then from the
course's own notebook, then from other cells of the submission.
"""

import ast
import builtins
import symtable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vt_course import __version__, need
from vt_course.files import regular
from vt_course.publish.source import from_source
from vt_course.publish.student import read, student_edition, text_hash, told
from vt_course.publish.tags import exercises, parts
from vt_course.publish.work import bare, names_set_by, record

DEFINES = ("def ", "class ", "async ", "@")
FAILED, NOT_ATTEMPTED, MISSING, BY_HAND = "failed", "not attempted", "missing", "by hand"

LARGEST = 20 << 20  # bytes of a submission; the executed notebooks of the course have at most 1.5 MB
LONGEST = 100_000  # characters of a cell


@dataclass(frozen=True)
class Statement:
    """A statement that gives values to names: its source, these names, and the names that it needs itself."""

    text: str
    sets: tuple[str, ...]
    needs: frozenset[str]


@dataclass(frozen=True)
class Task:
    """An exercise of a notebook: its number and the name of its function."""

    number: str
    name: str
    before: tuple[Statement, ...]  # of the course's notebook, in order, with the solutions of earlier exercises


@dataclass(frozen=True)
class Assignment:
    """A notebook of the course, as the grader knows it.

    edition: the digest of its student edition. given: hashes of the texts of that edition's cells.
    """

    notebook: str
    edition: str
    given: frozenset[str]
    tasks: tuple[Task, ...]


@cache
def assignment(source: Path) -> Assignment:
    """The exercises of a notebook of the course."""
    nb, tasks, before, lost = from_source(source), [], [], set()
    cells = exercises(nb)
    for cell in nb.cells:
        part = parts(cell)
        if number := part.get("exercise"):
            call = ast.parse(nb.cells[cells[number]["check"][0]].source).body[-1]
            tasks.append(Task(number, names_set_by(call)[0], tuple(before)))
        elif cell.cell_type == "code" and "check" not in part:
            text = cell.source
            if "solution" in part:  # its last line is the check
                text = "\n".join(text.splitlines()[: ast.parse(text).body[-1].lineno - 1])
            for s in statements(text):
                if imports_the_course(s) or s.needs & lost and not s.text.startswith(DEFINES):
                    lost |= set(s.sets)  # what the package gives is not there for a submission, nor what is made of it
                else:
                    before.append(s)
                    lost -= set(s.sets)
    ours = told(student_edition(source))
    return Assignment(source.stem, ours["sha256"], frozenset(ours["cells"].values()), tuple(tasks))


# ---------------------------------------------------------------- statements and names


def statements(text: str) -> list[Statement]:
    """The definitions, imports and plain assignments of a cell. What only does something, such as a loop, is left out.

    Raises SyntaxError, or ValueError, RecursionError or MemoryError for a text that the parser refuses.
    """
    found = []
    for node in ast.parse(plain_python(text)).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [(alias.asname or alias.name).split(".")[0] for alias in node.names]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not is_check(node.value):
            names = names_set_by(node)
        else:
            continue
        source = ast.unparse(node)
        found.append(Statement(source, tuple(names), frozenset(names_needed(source))))
    return found


def is_check(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "check"


def plain_python(text: str) -> str:
    """A cell without IPython's magics, whose lines become comments so that the numbers of lines stay."""
    lines = text.splitlines()
    if lines and lines[0].startswith("%%"):
        return ""
    return "\n".join("#" * line.lstrip().startswith(("%", "!")) + line for line in lines)


def names_needed(source: str) -> set[str]:
    """The global names that a text uses, without those of Python itself."""
    found, tables = set(), [symtable.symtable(source, "cell", "exec")]
    top = tables[0]
    while tables:
        table = tables.pop()
        found |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (table is top or s.is_global())}
        tables += table.get_children()
    return {name for name in found if not hasattr(builtins, name)}


def with_needs(wanted: list[Statement], *sources: list[Statement]) -> list[Statement]:
    """`wanted`, after all that they need. A name is looked for in `wanted`, then in each of `sources`, from its end."""
    have, need = {name for s in wanted for name in s.sets}, [name for s in wanted for name in sorted(s.needs)]
    taken = set()
    while need:
        name = need.pop()
        if name in have:
            continue
        have.add(name)
        for at, source in enumerate(sources):
            place = next((i for i in reversed(range(len(source))) if name in source[i].sets), None)
            if place is not None:
                taken.add((at, place))
                have |= set(source[place].sets)
                need += sorted(source[place].needs)
                break
    return [sources[at][place] for at, place in sorted(taken)] + wanted


# ---------------------------------------------------------------- a submission


@dataclass(frozen=True)
class Answer:
    """What a submission says to an exercise.

    state: "" if there is code to check, else FAILED, NOT_ATTEMPTED or MISSING. text: a sentence on that.
    code: the program that defines the function. parameters: its parameters and local names, for the check's sentences.
    written: the text of the cell, for a comparison with other submissions; "" if it is the stub.
    """

    state: str
    text: str = ""
    code: str = ""
    written: str = ""
    parameters: tuple[str, ...] = ()
    locals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submission:
    """assignment: of which notebook it is. release: that of its edition, as it says. notes: for the teacher."""

    assignment: Assignment
    release: str
    notes: tuple[str, ...]
    answers: dict[str, Answer]


def read_submission(path: Path, known: list[Assignment]) -> Submission:
    """A notebook that was handed in. Raises CourseError, with a sentence for its author, for what is none of ours."""
    need(not path.is_symlink(), "it is a link to another file; hand in the notebook itself")
    size = regular_size(path)
    need(size > 0, "it is an empty file; save the notebook and hand it in again")
    need(
        size <= LARGEST,
        f"it has {size / 1e6:,.0f} MB, more than {LARGEST / 1e6:,.0f}; clear the outputs (Kernel > Restart Kernel and "
        "Clear Outputs of All Cells), save it and hand it in again",
    )
    nb = read(path, name="it", remedy="save the notebook in JupyterLab and hand in the file 'NN_name.ipynb'.")
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    mine = of_notebook(nb, cells, known)
    notes, answers = [], {}
    edition = told(nb)
    release = edition.get("version") if isinstance(edition.get("version"), str) else ""
    if edition.get("sha256") is None:
        notes.append("it does not say of which edition it is")
    elif edition.get("sha256") != mine.edition:
        of = f"of release {release[:20]}" if release and release != __version__ else "another one than the course's now"
        notes.append(f"its edition is {of}; its exercises were found by number and name")
    parsed = [parse(cell) for cell in cells]
    given = {*mine.given, *record(nb).values()}
    for task in mine.tasks:
        answers[task.number], note = answer(task, cells, parsed, given)
        if note:
            notes.append(note)
    return Submission(mine, release, tuple(notes), answers)


def regular_size(path: Path) -> int:
    try:
        return Path(regular(path)).stat().st_size
    except OSError as error:
        need(False, f"it cannot be read ({error.strerror}); hand in the notebook as a file")


def of_notebook(nb, cells: list, known: list[Assignment]) -> Assignment:
    """Which notebook of the course this is: by its metadata, then by most of its tags, then by most of its names."""
    says = told(nb).get("notebook")
    tags = [number for cell in cells for part, number in parts(cell).items() if part == "exercise"]
    texts = [cell.source for cell in cells]

    def score(one: Assignment) -> tuple:
        numbers = {task.number for task in one.tasks}
        names = sum(any(f"def {task.name}(" in text for text in texts) for task in one.tasks)
        return says == one.notebook, sum(tag in numbers for tag in tags), names

    best = max(known, key=score)
    need(any(score(best)), "it has no exercise of the course; hand in the notebook that you worked in")
    return best


def parse(cell) -> tuple[list[Statement], str]:
    """(the statements of a cell, "" or why there are none)."""
    if len(cell.source) > LONGEST:
        return [], f"it has more than {LONGEST:,} characters"
    try:
        return statements(cell.source), ""
    except SyntaxError as error:
        return [], f"{error.msg} in line {error.lineno}"
    except (ValueError, RecursionError, MemoryError) as error:
        return [], f"{type(error).__name__}: Python's parser gives up"


def answer(task: Task, cells: list, parsed: list, given: set[str]) -> tuple[Answer, str]:
    """(what the cells say to a task, a note for the teacher or ""). given: hashes of texts that the course wrote."""
    tagged = [i for i, cell in enumerate(cells) if parts(cell).get("exercise") == task.number]
    written = [
        i
        for i, cell in enumerate(cells)
        if any(task.name in s.sets and not is_stub(s) for s in parsed[i][0]) and text_hash(cell) not in given
    ]
    note = f"{len(tagged)} cells are tagged exercise:{task.number}; the last one that is written counts"
    note = note if len(tagged) > 1 else ""
    if not written:
        return without(task, [i for i in tagged if text_hash(cells[i]) not in given], bool(tagged), cells, parsed), note
    place = ([i for i in written if i in tagged] or written)[-1]
    cell, (found, _) = cells[place], parsed[place]
    if any(imports_the_course(s) for s in found):
        said = f"✗ exercise {task.number}: your cell uses `vt_course`, the course's own package; write it without"
        return Answer(FAILED, said, written=cell.source), note
    others = [s for i, (of, _) in enumerate(parsed) if i != place and not parts(cells[i]) for s in of]
    code = with_needs(found, list(task.before), [s for s in others if not imports_the_course(s)])
    function = next(s for s in reversed(found) if task.name in s.sets)
    parameters, local = variables(function.text)
    return Answer("", "", "\n".join(s.text for s in code), cell.source, parameters, local), note


def is_stub(statement: Statement) -> bool:
    node = ast.parse(statement.text).body[0]
    body = bare(node) if isinstance(node, ast.FunctionDef) else []
    return len(body) == 1 and body[0].startswith("raise NotImplementedError")


def imports_the_course(statement: Statement) -> bool:
    imports = [n for n in ast.walk(ast.parse(statement.text)) if isinstance(n, (ast.Import, ast.ImportFrom))]
    modules = [name for n in imports for name in (getattr(n, "module", None), *(alias.name for alias in n.names))]
    return any(name and name.split(".")[0] == "vt_course" for name in modules)


def without(task: Task, tagged: list[int], there: bool, cells: list, parsed: list) -> Answer:
    """The answer of a submission that does not define the function of a task. tagged: the cells that were changed."""
    start = f"✗ exercise {task.number}:"
    if not there:
        return Answer(MISSING, f"{start} its cell is missing, and no other cell defines `{task.name}`")
    if not tagged or any(task.name in s.sets for i in tagged for s in parsed[i][0]):
        return Answer(NOT_ATTEMPTED, f"○ exercise {task.number} is not attempted yet")
    (found, fault), written = parsed[tagged[-1]], cells[tagged[-1]].source
    if fault:
        return Answer(FAILED, f"{start} your cell is not valid Python ({fault})", written=written)
    names = [f"`{name}`" for s in found for name in s.sets if s.text.startswith(DEFINES)]
    more = f"; it defines {', '.join(names)}: give it back its name" if names else ""
    return Answer(FAILED, f"{start} your cell does not define `{task.name}`{more}", written=written)


def variables(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the parameters of a function, its parameters and local names), as far as its text tells."""
    node = ast.parse(text).body[0]
    if not isinstance(node, ast.FunctionDef):
        return (), ()
    args = tuple(arg.arg for arg in (*node.args.posonlyargs, *node.args.args))
    local = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return args, (*args, *sorted(local - set(args)))
